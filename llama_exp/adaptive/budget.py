"""What a sweep may spend: budget=2h, 30min, or money at the price of conf/report.yaml: budget=12.50."""

import re
import time
from dataclasses import dataclass, field

from llama_exp.errors import UserError
from llama_exp.formatting import format_duration, format_money
from llama_exp.report import costs

UNITS = {"h": 3600.0, "min": 60.0, "s": 1.0}


@dataclass
class Budget:
    """seconds: of the clock; money: of the runs' own seconds. None: no end."""

    seconds: float | None = None
    money: float | None = None
    prices: costs.Prices = field(default_factory=costs.Prices)
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, typed: str | float | None) -> "Budget":
        """Raises UserError for what is neither a time nor money."""
        if typed is None:
            return cls()
        found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(h|min|s)?", str(typed).strip())
        if not found or not float(found[1]) > 0:
            raise UserError(f"budget={typed}: wanted a time such as 2h or 30min, or money such as 12.50.")
        if found[2]:
            return cls(seconds=float(found[1]) * UNITS[found[2]])
        prices = costs.load()
        if not prices.price_per_gpu_hour:
            raise UserError(
                f"budget={typed} is money, and conf/report.yaml has no price_per_gpu_hour. Write it there, or type a "
                f"time: budget={typed}h."
            )
        return cls(money=float(found[1]), prices=prices)

    def left(self, spent: float) -> float:
        """Seconds of runs that may still be begun; `spent`: seconds of the runs so far."""
        if self.money is not None:
            return self.money / float(self.prices.price_per_gpu_hour or 1) * 3600 - spent
        return float("inf") if self.seconds is None else self.seconds - (time.monotonic() - self.began)

    def __str__(self) -> str:
        return (
            format_money(self.money, self.prices.currency) if self.money is not None else format_duration(self.seconds)
        )
