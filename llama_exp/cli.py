"""How a command ends: readable messages instead of tracebacks, and exit codes.

0 = done, 1 = at least one cell of a sweep failed, 2 = the command itself was wrong and nothing was started, 130 = Ctrl-C,
141 = whoever read its output closed it.
"""

import atexit
import dataclasses
import difflib
import functools
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from enum import Enum
from typing import Any, get_args, get_type_hints

from llama_exp.config import command_line
from llama_exp.errors import UserError

# Remarks of libraries on choices that are ours. Named one by one: an unknown warning stays visible.
REMARKS = (
    "`?(is_)?gradient_checkpointing.*deprecated.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*does not have many workers.*",
    ".*Checkpoint directory.*exists.*",
    ".*The number of training batches.*",
    ".*module.* in eval mode.*",
    ".*Trying to infer the `batch_size`.*",
    ".*your dataloader is not resumable.*",  # the sampler goes on where it was (StepSampler.start)
    ".*AccumulateGrad node's stream.*",  # DistributedDataParallel's own streams
    ".*sync_dist=True.*",  # Finetune sums over ranks itself
)
# Lines of Hydra's messages that are about Hydra.
INTERNALS = (
    "full_key",
    "object_type",
    "reference_type",
    "set HYDRA",
    "Config search path",
    "provider=",
    "To append",
    "Error executing job",
)


GROUPS = ("experiment", "sweep", "dataset", "model", "lora", "trainer", "logger")  # of conf/, typed by their names
own_words: list[str] = []  # of the command that runs, beside the keys of conf/
failures: list[str] = []  # why cells of this process's sweep failed: its exit code, and the last line of its table


def failed(reason: str) -> dict[str, str]:
    """Record a failed cell; the sweep goes on. A reason is printed once; the table at the end counts whom it hit."""
    known = reason in failures
    print("FAILED as above." if known else f"FAILED: {reason}\nThe sweep goes on with the next cell.", flush=True)
    failures.append(reason)
    return {"said": f"FAILED: {reason}"}


def hush() -> None:
    """Silence the libraries' advertisements and the REMARKS."""
    for message in REMARKS:
        warnings.filterwarnings("ignore", message=message)
    for name in (
        "lightning.pytorch",
        "lightning.fabric",
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.distributed",
        "lightning.fabric.utilities.rank_zero",
        "bitsandbytes",
        "torch._subclasses.fake_tensor",
        "datasets",
        "matplotlib.font_manager",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault(
        "HF_HUB_VERBOSITY", "error"
    )  # ten lines of retries; what came of them is said by data/loading.py


def run(main: Callable[[], None]) -> None:
    """Run a Hydra entry point. Problems and Hydra's own configuration errors are printed; bugs keep their traceback."""
    ending = Ending()
    try:
        _run(main)
    except SystemExit as exit_:
        ending.code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        raise


class Ending:
    """Leaves the process as soon as everything has been put away: Python would then take its objects apart one by one, for 1.5
    to 2 s, and the next command of a script would wait for it. What was registered with atexit before it does not run."""

    def __init__(self) -> None:
        self.code = 1  # a traceback
        atexit.register(self._leave)  # what is registered first runs last

    def _leave(self) -> None:
        logging.shutdown()
        for stream in filter(None, (sys.stdout, sys.stderr)):
            try:
                stream.flush()
            except BrokenPipeError:  # the reader has seen enough
                pass
            except (OSError, ValueError):  # a full disk: what was said is lost, as Python itself says with this code
                self.code = self.code or 120
        os._exit(self.code)


def _run(main: Callable[[], None]) -> None:
    hush()
    if os.environ.get("LOCAL_RANK", "0") != "0":  # a process that DistributedDataParallel started: the first one speaks
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open until the process ends)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands errors to us instead of printing half a traceback
    # Nothing that a command runs is compiled, but bitsandbytes calls torch.compile when it is imported: 3 s for the compiler
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    # Threads that spin while they wait are 25 times slower on a busy machine; that sleep at once, a third slower on an
    # idle one. A short spin costs a sixth on either.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    if typed := _mistyped(sys.argv[1:]):
        _stop(typed, 2)
    try:
        main()
    except UserError as problem:
        _stop(str(problem), 2)
    except KeyboardInterrupt as interrupt:
        _stop("\n" + (str(interrupt) or "Interrupted. The same command goes on where this one stopped."), 130)
    except BrokenPipeError:  # the reader (`| head`) has seen enough: no success, for work may be left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _stop("Stopped: whoever read this command's output has closed it.", 141)
    except Exception as error:
        if _is_configuration(error):
            _stop(_readable(error), 2)
        raise
    sys.exit(1 if failures else 0)


def _mistyped(words: list[str]) -> str | None:
    """What Hydra's own parser would answer in its own terms."""
    options = [word for word in words if word.startswith("--") and "=" not in word]
    if "--cfg" in words and {"-m", "--multirun"} & set(words):
        return "--cfg shows one cell: leave out -m."
    if foreign := [
        word for word in options if word[2:].split(".")[0] in ("sample", "seed", "dataset", "model", "lora")
    ]:
        value = words[words.index(foreign[0]) + 1 :][:1] or ["VALUE"]
        return f"{foreign[0]}: keys are typed without dashes: {foreign[0][2:]}={value[0]}"
    if "=" in words:
        return "Write key=value, with no spaces around =."
    return None


def one_job(function: Callable) -> Callable:
    """Around the function that Hydra calls. A UserError ends a single run with its text, without Hydra's preamble.

    In a sweep a failing cell is recorded and the next one starts; the traceback of a bug is printed where it happens.
    """

    @functools.wraps(function)
    def wrapped(cfg):
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        single = HydraConfig.get().mode is not RunMode.MULTIRUN
        if not single and str(cfg.trainer.get("strategy", "")).startswith("ddp"):
            # its child processes would be given the whole command line, and each would start the sweep again
            return failed("trainer=ddp runs one cell at a time: type the cells one by one, without -m.")
        try:
            return function(cfg)
        except UserError as problem:
            if single:
                _stop(str(problem), 2)
            return failed(str(problem))
        except Exception as error:
            if single:
                raise
            reason = f"{type(error).__name__}: {error}"
            if reason not in failures:
                traceback.print_exc()
            return failed(reason)

    return wrapped


def with_words(doc: str, split: Callable, work: Callable, one_run: str | None = None) -> Any:
    """Run a Hydra command that has words of its own beside those of conf/: `work(config, words)`, and what it came to last.

    split(argv) -> (its words, Hydra's); `one_run` refuses a sweep, in those words. --help prints `doc`.
    """
    import hydra

    from llama_exp.config.compose import CONF, resolve

    words, rest = split(sys.argv[1:])
    if {"-h", "--help"} & set(rest):
        print(doc.strip())
        return None
    sys.argv[1:] = rest
    own_words[:] = [field.name for field in dataclasses.fields(words)]
    came_to = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    @one_job
    def command(cfg):
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        if one_run and HydraConfig.get().mode is RunMode.MULTIRUN:
            raise UserError(one_run)
        came_to.append(work(resolve(cfg), words))
        return came_to[-1]

    command()
    return came_to[-1] if came_to else None


def _stop(text: str, code: int) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)
    sys.exit(code)


def _is_configuration(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in ("hydra", "omegaconf") or "Config group override" in str(error)


def _readable(error: BaseException) -> str:
    """Hydra's message without its internals; every key that is not there, with what was probably meant."""
    if "Config group override" in str(error):
        null = [word for word in sys.argv[1:] if word.endswith("=null") and "." not in word]
        return f"{' '.join(null)}: a group needs one of its files; type for example logger=none. See --help."
    if said := _override(error):
        return said
    told = [line for text in (str(error), str(error.__cause__ or "")) for line in text.split("\n")]
    lines = [line for line in dict.fromkeys(told) if line.strip() and not line.strip().startswith(INTERNALS)]
    if (missing := re.search(r"Could not find '[^']*?([^/']+)'", str(error))) and (
        near := difflib.get_close_matches(missing[1], [line.strip() for line in lines[1:]], n=1)
    ):
        lines.append(f"Did you mean {near[0]}?")
    return "\n".join(_unknown_keys() or lines)


def _override(error: BaseException) -> str | None:
    """A word that Hydra could not read, or whose value has another type: what was wanted, and what to type."""
    from hydra.errors import OverrideParseException

    first = str(error).split("\n")[0]
    if isinstance(error, OverrideParseException):
        if unknown := _unknown_keys():  # perhaps one of the command's own words, whose text Hydra is not to read
            return "\n".join(unknown)
        key, equals, text = error.override.partition("=")
        if not equals:
            return f"{error.override}: wanted key=value."
        text = text[1:] if text[:1] in "'\"" else text
        text = text[:-1] if text[-1:] in "'\"" else text
        return (
            f"{error.override}: text with braces, commas, quotes or other signs stands in quotes inside those of the "
            f"shell. Type {command_line.shell_quoted(f'{key}={command_line.hydra_value(text)}')}"
        )
    if ambiguous := re.match("Ambiguous value for argument '(.*)'$", first):
        word = ambiguous[1]
        key, _, values = word.partition("=")
        return f"{word}: several values are a sweep, which takes -m. A list is typed {key}=[{values}]."
    merging = re.match("Error merging override (.*)$", first)
    if merging and (wanted := _wanted(merging[1].partition("=")[0].lstrip("+~"))):
        key, _, value = merging[1].partition("=")
        return f"{key}={value}: wanted {wanted}."
    return None


def _wanted(key: str) -> str | None:
    """The type of a key of conf/ in words; None where it has none, or is not there."""
    from llama_exp.config.schema import Config

    kind: Any = Config
    for name in key.split("."):
        kind = get_type_hints(kind).get(name) if dataclasses.is_dataclass(kind) else None
    null = " or null" if type(None) in get_args(kind) else ""
    kind = next((part for part in get_args(kind) if part is not type(None)), kind) if null else kind
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(choice.name for choice in kind)}{null}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words[kind] + null if kind in words else None


def _unknown_keys() -> list[str]:
    """A line for each word of the command whose key is not in conf/."""
    from llama_exp.config.compose import default_config
    from llama_exp.config.identity import flat

    try:
        known = [*own_words, *flat(default_config({})), *GROUPS]
    except Exception:  # conf/ itself is broken: Hydra's message says how
        return []
    lines = []
    for word in sys.argv[1:]:
        key = word.split("=")[0].lstrip("+~")
        parent = key.rpartition(".")[0]
        if "=" not in word or word.startswith("-") or key in known or key.startswith(("hydra", "logger.")):
            continue
        if key.startswith("trainer."):  # Lightning knows more of them, added with +
            near = difflib.get_close_matches(key, [k for k in known if k.startswith("trainer.")], n=3, cutoff=0.6)
            if near and not word.startswith("+"):
                lines.append(f"No key {key!r}. Did you mean {', '.join(near)}?")
            continue
        if parent and any(k.startswith(f"{key}.") for k in known):
            continue
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.8) or difflib.get_close_matches(
            key, known, n=3, cutoff=0.5
        )
        lines.append(f"No key {key!r}." + (f" Did you mean {', '.join(near)}?" if near else " --cfg job lists all."))
    return lines
