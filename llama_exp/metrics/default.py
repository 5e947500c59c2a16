"""Which metrics suit responses that look like these: `dataset.metrics=[auto]`.

a few distinct values, each often     label      accuracy and macro-F1
nearly all of them short              squad      exact match and F1
longer texts                          rouge, and bertscore where an encoder is at hand
"""

import re
from collections.abc import Sequence

AUTO = "auto"
SHORT = 40  # characters of a span; a label may be as long
MOST = 0.9  # the share that counts as "nearly all"
LABELS, REPEATS = 50, 10  # at most so many distinct labels, each so often on average


def default_metrics(responses: Sequence[str], encoder: bool) -> tuple[list[str], str]:
    """(metrics, why) for the responses of a training split. `encoder`: whether BERTScore can be computed here."""
    distinct, short = len(set(responses)), sum(len(response) <= SHORT for response in responses)
    if short == len(responses) and 1 < distinct <= min(LABELS, len(responses) // REPEATS):
        return ["label"], f"the responses are {distinct} distinct values"
    if short >= MOST * len(responses):
        return ["squad"], f"nearly all responses have at most {SHORT} characters"
    # ROUGE's words are a-z and 0-9: texts in another script would score 0, all of them.
    latin = sum(bool(re.search("[a-z0-9]", response.lower())) for response in responses) >= MOST * len(responses)
    found = ["rouge"] * latin + ["bertscore"] * encoder
    return found or ["squad"], "the responses are texts" + ("" if encoder else "; BERTScore has no encoder here")
