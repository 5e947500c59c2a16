"""load_run: a finished run for a program, by its folder or by overrides."""

from pathlib import Path

from llama_exp.config.compose import load_config
from llama_exp.runs.find import find_run
from llama_exp.runs.run import Run


def load_run(*folder_or_overrides: str | Path) -> Run:
    """A run by its folder, or the finished one that overrides mean.

        load_run("outputs/squad/tiny-300-r16-seed0")
        load_run("dataset=squad", "model=tiny", "sample=300")

    Raises UserError where the folder holds no run, or where no run or several match.
    """
    first = Path(folder_or_overrides[0]) if len(folder_or_overrides) == 1 else None
    if first and (first.is_dir() or "=" not in str(first)):
        return Run.load(first)
    return find_run(load_config(*map(str, folder_or_overrides)))
