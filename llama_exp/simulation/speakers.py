"""Who plays the client and who the agent: a run, the untuned model, or a script."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_exp.config.schema import Config
from llama_exp.data.dialogue import CLIENT, SIDES, SYSTEM
from llama_exp.errors import UserError
from llama_exp.model.adapters import check_same_base
from llama_exp.programs import program
from llama_exp.runs.files import read_text
from llama_exp.runs.run import Run
from llama_exp.sanitize import reason

CLIENT_SYSTEM = "You are a person who asks an assistant for help. Write what this person says next."
NOT_DIALOGUE = ("summary", "decision")  # tasks that transform a text instead of answering it


@dataclass(frozen=True, slots=True)
class Speaker:
    """One side of the conversations.

    name     as typed: tuned, untuned, script:FILE or a folder
    config   the run's: its lengths and generation limit are used
    run      None for the untuned model and for a script
    script   the lines of a script, else None
    """

    side: str
    name: str
    config: Config
    system: str
    run: Run | None = None
    script: tuple[str, ...] | None = None

    @property
    def adapter(self) -> Path | None:
        return self.run.adapter if self.run else None

    def as_json(self) -> dict[str, Any]:
        return {
            "named": self.name,
            "run": self.run.name if self.run else None,
            "system": self.system,
            "model": self.config.model.title if self.script is None else None,
        }


def choose_speakers(config: Config, run: Run, options, replacement: str | None = None) -> dict[str, Speaker]:
    """{side: Speaker} for client=… and agent=…; with `replacement`, that one in place of the tuned run."""
    speakers = {}
    for side in SIDES:
        name = getattr(options, side)
        if replacement is not None and name == "tuned":
            name = replacement
        speakers[side] = _speaker(side, name, config, run, getattr(options, f"{side}_system"))
    models = [speaker for speaker in speakers.values() if speaker.script is None]
    if not models:
        raise UserError("Both sides are scripts: nothing would be generated. Type client=tuned or agent=tuned.")
    if len(models) == 2:
        check_same_base(models[0].config, models[1].config, str(models[1].run.folder) if models[1].run else "untuned")
    return speakers


def _speaker(side: str, name: str, config: Config, run: Run, system: str | None) -> Speaker:
    if name.startswith("script:"):
        lines = read_script(Path(name.removeprefix("script:")).expanduser(), side)
        return Speaker(side, name, run.config, "", script=lines)
    if name not in ("tuned", "untuned"):
        folder = Path(name)
        run = Run.load(folder) if (folder / "config.yaml").is_file() else None
        if run is None or not run.is_finished:
            raise UserError(f"{side}={name}: wanted tuned, untuned, script:FILE or the folder of a finished run.")
    tuned = None if name == "untuned" or run.is_untuned else run
    dataset = run.config.dataset
    if tuned and dataset.task in NOT_DIALOGUE:
        raise UserError(
            f"{side}={name}: {run.name} was trained with dataset.task={dataset.task}, not to continue a conversation. "
            f"Choose a run trained on turns: {program('train')} dataset=tweetsumm dataset.task=turns"
        )
    if system is None:
        system = dataset.system or ("" if tuned else config.dataset.system) or default_system(config, side)
    return Speaker(side, name, run.config, system, tuned)


def default_system(config: Config, side: str) -> str:
    """The system prompt of a side in training on turns; with other tasks none for the agent, and a role for the
    client."""
    if config.dataset.task.endswith("turns"):
        return SYSTEM[side]
    return CLIENT_SYSTEM if side == CLIENT else ""


def read_script(path: Path, side: str) -> tuple[str, ...]:
    """The lines of a script, a turn each."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{side}=script:{path}: {reason(error)}.") from None
    lines = tuple(stripped for line in text.split("\n") if (stripped := line.strip()))
    if not lines:
        raise UserError(f"{side}=script:{path}: the file is empty. Write one turn on each line.")
    return lines
