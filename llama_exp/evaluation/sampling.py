"""How replies are sampled."""

import math
from typing import Any

from llama_exp.errors import UserError


def check_sampling(temperature: float, top_p: float) -> dict[str, Any]:
    """What `generate` and `stream` are given; temperature 0 is greedy, as in evaluation."""
    if not 0 <= temperature < math.inf:
        raise UserError(f"temperature={temperature:g}: wanted 0 or more.")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p={top_p:g}: wanted more than 0 and at most 1.")
    if not temperature:
        return {}
    return {"temperature": temperature, "top_p": top_p}
