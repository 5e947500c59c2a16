"""The commands that continue a run, evaluate it, evaluate the untuned model beside it, train another, or use it."""

from pathlib import Path
from typing import Any

from llama_exp.config import command_line
from llama_exp.programs import program
from llama_exp.report.cells import Comparison, ScoredRun
from llama_exp.report.load import RunRecord, identity_among, load_evaluation_keys, stored_leaves

VALIDATED = ("validations", "validation_sample", "forgetting")  # they cost time and decide which step is kept
EVALUATED = ("split", "eval_sample", "eval_seed")  # beside the data: what decides which items are answered


def next_command(run: RunRecord, folder: Path, compared: list[Comparison]) -> str:
    """What to type to continue a run, or to evaluate it on what the other runs on its data answered."""
    leaves = _leaves(run)
    where = command_line.folder_options(run.folder, run.dataset, folder, leaves.get("out"))
    if run.status not in ("finished", "stopped early"):
        return command_line.command("train", leaves or run.identity, *where)
    own = identity_among(leaves) or run.identity
    keys = {key: leaves[key] for key in EVALUATED if key in leaves}
    for c in compared:
        others = (
            load_evaluation_keys(c.cells()[0][1].runs[0].evaluation)
            if c.cells() and c.trained_on == run.dataset
            else {}
        )
        if all(others.get(key) == own.get(key) for key in ("dataset.name", "dataset.source", "dataset.path")):
            keys = {key: others[key] for key in EVALUATED if key in others}
            break
    return command_line.command("evaluate", own | keys, *where)


def untuned_command(tuned: ScoredRun, root: Path) -> str:
    """What lets the untuned model answer the same items in the same wording."""
    leaves = {k: v for k, v in tuned.run.identity.items() if k.startswith("model.")} | load_evaluation_keys(
        tuned.evaluation
    )
    leaves.pop("eval_batch", None)  # how fast, not what
    leaves = {"model.name": tuned.run.model, **leaves, "dataset.name": tuned.evaluation.dataset, "lora.r": 0}
    return command_line.command("evaluate", leaves, *command_line.outputs_option(root))


def similar_run_command(like: ScoredRun, changes: dict[str, Any], root: Path) -> str:
    """What trains a run like this one but for some keys, and evaluates it on the same items."""
    settings = load_evaluation_keys(like.evaluation)
    stored = _leaves(like.run)
    leaves = identity_among(stored) or like.run.identity
    leaves = leaves | {key: stored[key] for key in VALIDATED if key in stored}
    leaves = leaves | {key: settings[key] for key in EVALUATED if key in settings} | {"evaluate": True} | changes
    return command_line.command("train", leaves, *command_line.outputs_option(root))


def use_commands(run: RunRecord) -> list[tuple[str, str]]:
    """(what for, command): to chat with a finished run, to publish it, to evaluate it on other data.

    The run is named by its folder, which no default can change.
    """
    found = command_line.shell_quoted(f"out={command_line.hydra_value(str(run.folder))}")
    data = "dataset=table dataset.path=FILE dataset.prompt=COLUMN dataset.response=COLUMN"
    return [
        ("Chat with it", f"llama-exp chat {found}"),
        ("Publish it (remove dry_run=true to upload)", f"llama-exp publish {found} repo=NAME dry_run=true"),
        ("Evaluate it on other data", f"{program('evaluate')} {found} {data}"),
    ]


def _leaves(run: RunRecord) -> dict[str, Any]:
    """The values of a run's config as stored, for a command, not to be shown; {} where they cannot be read."""
    try:
        return stored_leaves(run.folder / "config.yaml")
    except (OSError, ValueError, RecursionError):
        return {}
