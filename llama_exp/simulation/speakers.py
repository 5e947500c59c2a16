"""Who speaks for the client and who for the agent: a run, the untuned model, or a script."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_exp.config.schema import Config
from llama_exp.data.dialogue import AGENT, CLIENT, SIDES, SYSTEM, Said, next_turn
from llama_exp.data.splitting import shuffled
from llama_exp.errors import UserError
from llama_exp.model.adapters import check_same_base
from llama_exp.records import Example
from llama_exp.runs.run import Run
from llama_exp.sanitize import valid_unicode

PERSON = "You are a person who asks an assistant for help. Write what this person says next."
NO_SPEECH = ("summary", "decision")  # tasks that make something of a text, and answer nobody


@dataclass(frozen=True, slots=True)
class Part:
    """One side. `run` is None for the untuned model and for a script; `script` is None but for a script.

    config    whose lengths and system prompt are used: the run's
    """

    side: str
    named: str
    config: Config
    system: str
    run: Path | None = None
    script: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """How a conversation begins: its first message, and the Examples of the real turns after it, by side."""

    id: str
    group: str
    text: str | None  # None: the client makes one up
    real: dict[str, list[Example]] = dataclasses.field(default_factory=dict)


def cast(
    config: Config,
    tuned: Path | None,
    trained: Config,
    named: dict[str, str],
    systems: dict[str, str | None],
    instead: str | None = None,
) -> dict[str, Part]:
    """{side: Part} of the words client=… and agent=…; with `instead`, that takes every place of the tuned run."""
    parts = {}
    for side in SIDES:
        word = named[side]
        if instead is not None and word == "tuned":
            word = instead
        parts[side] = _part(side, word, config, tuned, trained, systems[side])
    speaking = [part for part in parts.values() if part.script is None]
    if not speaking:
        raise UserError(
            "Both sides are scripts: there is nothing to simulate. Let client or agent be tuned or untuned."
        )
    if len(speaking) == 2:
        check_same_base(speaking[0].config, speaking[1].config, speaking[1].run or Path("the untuned model"))
    return parts


def _part(side: str, word: str, config: Config, tuned: Path | None, trained: Config, system: str | None) -> Part:
    if word.startswith("script:"):
        return Part(side, word, trained, "", script=script(Path(word.removeprefix("script:")).expanduser(), side))
    run, of = (tuned, trained) if word == "tuned" else (None, trained)
    if word not in ("tuned", "untuned"):
        run = Path(word)
        if not (run / "config.yaml").is_file() or not Run.load(run).is_finished:
            raise UserError(f"{side}={word}: wanted tuned, untuned, script:FILE or the folder of a finished run.")
        of = Run.load(run).config
    if run is not None and of.dataset.task in NO_SPEECH:
        raise UserError(
            f"{side}={word}: {run.parent.name}/{run.name} has learnt dataset.task={of.dataset.task}, not to say what comes "
            "next: in a conversation it would do that to whatever it hears. Choose a run that learnt turns: "
            "python train.py dataset=tweetsumm dataset.task=turns"
        )
    told = of.dataset.system or (config.dataset.system if run is None else "") or usual_system(config, side)
    return Part(side, word, of, told if system is None else system, run)


def usual_system(config: Config, side: str) -> str:
    """What a side is told in training on turns. Elsewhere the agent is told nothing; a client must know what it is."""
    if config.dataset.task.endswith("turns"):
        return SYSTEM[side]
    return PERSON if side == CLIENT else ""


def script(path: Path, side: str) -> tuple[str, ...]:
    try:
        lines = tuple(line.strip() for line in path.read_text(encoding="utf-8", errors="replace").split("\n"))
    except OSError as error:
        raise UserError(f"{side}=script:{path}: {error.strerror}.") from None
    lines = tuple(line for line in lines if line)
    if not lines:
        raise UserError(f"{side}=script:{path}: the file has no lines. Write a turn a line.")
    return lines


def openings(config: Config, kind: str, count: int) -> list[Opening]:
    """The first messages: of held-out conversations, of the client itself, or the lines of a file."""
    if kind == "client":
        return [Opening(str(number), str(number), None) for number in range(1, count + 1)]
    found = held_out(config) if kind == "held_out" else from_file(Path(kind).expanduser())
    if count > len(found):
        print(f"  conversations={count}: there are {len(found)} openings; all are used.", flush=True)
    return shuffled(found, config.eval_seed)[:count]


def from_file(path: Path) -> list[Opening]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise UserError(
            f"opening={path}: wanted held_out, client or a file of first messages ({error.strerror})."
        ) from None
    return [
        Opening(str(number), str(number), valid_unicode(line.strip()))
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def held_out(config: Config) -> list[Opening]:
    """One a held-out conversation: the user's first message, and the real turns after it."""
    from llama_exp.data import DATASETS

    if config.dataset.task.endswith("turns"):  # of both sides, whichever the run has learnt
        config = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, task="turns"))
    data = DATASETS.of(config)
    data.setup()
    found: dict[str, Opening] = {}
    by_group: dict[str, dict[str, list[Example]]] = {}
    examples = data.held_out(config.split.value)
    for example in examples:
        side = example.tags.get("speaker", AGENT)
        by_group.setdefault(example.group, {}).setdefault(side, []).append(example)
        if side == AGENT and not example.history:
            found.setdefault(example.group, Opening(example.id, example.group, example.prompt))
    for group, opening in found.items():
        real = by_group[group]
        if any(example.tags.get("speaker") for example in real[AGENT]):
            real[CLIENT] = [example for example in real.get(CLIENT, []) if len(example.history) > 1]  # not the opening
        found[group] = dataclasses.replace(opening, real=real)
    return list(found.values())


def example(part: Part, opening: Opening, said: Sequence[Said]) -> Example:
    """What a side is asked: to go on, as it sees the conversation."""
    return next_turn(opening.id, said, part.side, part.system)
