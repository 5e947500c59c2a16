"""How a command declares its options: a dataclass whose fields say what they mean.

    @dataclass(frozen=True)
    class ReportOptions:
        outputs: str = option("outputs", "folder with the runs", positional=True)
        price_per_gpu_hour: float | None = option(None, "price of one GPU for an hour")

    def report(options: ReportOptions) -> None: ...

A command takes `options` alone, or `config` (composed by Hydra from conf/) as well. cli/options.py turns what a user
typed into the dataclass, and the dataclass into --help.
"""

import dataclasses
import math
from typing import Any

REQUIRED = dataclasses.MISSING


def option(
    default: Any,
    help: str,
    *,
    positional: bool = False,
    others: bool = False,
    shown: str = "",
    minimum: float = 0,
    maximum: float = math.inf,
) -> Any:
    """A field of an options dataclass.

    positional: takes the arguments without "=". others: a dict that takes every key=value that is no other option.
    shown: what --help shows for the value where the default says little, such as FOLDER. minimum, maximum: of a number.
    """
    metadata = {"help": help, "positional": positional, "others": others, "shown": shown, "range": (minimum, maximum)}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
