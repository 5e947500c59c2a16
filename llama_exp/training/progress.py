"""How far training is, live: a bar where a person looks on, a line at each validation elsewhere.

step 7/8  loss 3.116  validation loss 2.649  learning rate 0.00075  gradient norm 2.49  2,924 tokens/s
"""

from lightning.pytorch.callbacks import RichProgressBar

from llama_exp.console import bar_columns

FORMATS = {
    "loss": ("loss", ".3f"),
    "validation_loss": ("validation loss", ".3f"),
    "lr": ("learning rate", ".2g"),
    "grad_norm": ("gradient norm", ".3g"),
    "tokens_per_second": ("tokens/s", ",.0f"),
}

IN_80_COLUMNS = ("loss", "validation_loss")  # what a narrow terminal has room for beside the bar
WIDE = 140  # columns that hold the bar and every number


def format_metrics(last: dict[str, float]) -> dict[str, str]:
    """{name: number} for people, of the latest value of each column of metrics.csv."""
    return {name: format(last[key], form) for key, (name, form) in FORMATS.items() if key in last}


class Progress(RichProgressBar):
    """Lightning's bar with our numbers, and steps instead of micro-batches. `last` is filled by `Curves`."""

    def __init__(self, last: dict[str, float], steps: int):
        super().__init__(refresh_rate=10)
        self.last, self.steps = last, steps

    def get_metrics(self, trainer, pl_module) -> dict[str, str]:
        """As many numbers as fit the terminal on one line."""
        wide = self._console is not None and self._console.width >= WIDE
        shown = {key: value for key, value in self.last.items() if wide or key in IN_80_COLUMNS}
        return {"step": f"{trainer.global_step}/{self.steps}", **format_metrics(shown)}

    def configure_columns(self, trainer) -> list:
        return bar_columns()
