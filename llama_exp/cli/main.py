"""llama-exp COMMAND key=value …: the table of all commands, and how one is run.

Exit codes: 0 = done, 1 = at least one cell of a sweep, or one line piped to chat, failed, 2 = the command was wrong and
nothing was started, 75 = to be continued by the same command: a signal stopped it (SIGTERM, SIGUSR2, stop_signal=), or
another process works on some of its cells, 130 = Ctrl-C, 141 = the reader of its output has closed it.
"""

import atexit
import codecs
import contextlib
import difflib
import functools
import gc
import importlib.util
import inspect
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from llama_exp import __version__
from llama_exp.cli.errors import config_error_message, file_error_message, is_config_error, mistyped
from llama_exp.cli.options import known_keys, options_help, parse_options, with_home
from llama_exp.config.schema import Config
from llama_exp.errors import SweepRefused, UserError
from llama_exp.processes import ProcessLost, is_distributed, process_number
from llama_exp.programs import install
from llama_exp.quiet import silence_libraries
from llama_exp.runs.lock import FolderBusy
from llama_exp.sanitize import TerminalFilter
from llama_exp.stopping import StopSignals, ToBeContinued

SPELT = {
    "±": "+/-",
    "–": "-",
    "—": "-",
    "−": "-",
    "…": "...",
    "×": "x",
    "·": "*",
    "“": '"',
    "”": '"',
    "’": "'",
    "≤": "<=",
    "≥": ">=",
}


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table. The function is imported when its command runs, so that --help stays fast."""

    function: (
        str  # module:function; its parameters are any of `config`, `options`, `session` (shared by a sweep's cells)
    )
    help: str
    one_run: str = ""  # why it takes no sweep

    def load(self) -> Callable:
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)


COMMANDS = {
    "train": Command("llama_exp.cli.commands:train", "fine-tune a run, or a sweep of them"),
    "evaluate": Command("llama_exp.cli.commands:evaluate", "score runs on held-out data"),
    "report": Command("llama_exp.cli.commands:report", "tables, page and figures from all results"),
    "breakdown": Command("llama_exp.report.command:breakdown", "scores by kind of question"),
    "chat": Command(
        "llama_exp.chat.command:chat", "talk to a run: terminal, pipe or browser", "One run at a time to talk to."
    ),
    "simulate": Command("llama_exp.simulation.command:simulate", "let a client and an agent talk, and score it"),
    "study create": Command("llama_exp.human.command:create", "draw a blind study for human raters"),
    "study serve": Command("llama_exp.human.command:serve", "serve the rating page"),
    "study report": Command("llama_exp.human.command:report", "what the raters found"),
    "publish": Command(
        "llama_exp.hub.command:publish",
        "upload a run to the Hugging Face hub",
        "One run at a time: a name on the hub holds one model.",
    ),
    "dashboard": Command("llama_exp.dashboard.command:dashboard", "the answer as a W&B view and report"),
    "sync": Command("llama_exp.dashboard.command:sync", "upload runs that were logged offline to W&B"),
}


def main() -> None:
    """The console script: sys.argv holds the command's name and its arguments."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["-sc"]:  # the shell asks for completions
        from llama_exp.cli.completion import complete

        return complete(arguments)
    if arguments[:1] == ["--version"]:
        return print(f"llama-exp {__version__}")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return print(overview())
    name, rest = split_name(arguments)
    if name in COMMANDS:
        return run_command(name, rest)
    if group := [command for command in COMMANDS if command.startswith(f"{name} ")]:
        if {"-h", "--help"} & set(rest):
            return print(overview(group))
        if not rest:
            print(overview(group), file=sys.stderr)
            sys.exit(2)
        name = " ".join([name, *rest[:1]])
    print(unknown(name), file=sys.stderr)
    sys.exit(2)


def split_name(arguments: list[str]) -> tuple[str, list[str]]:
    """("study create", the rest): the longest command name that the arguments begin with, else the first argument."""
    pair = " ".join(arguments[:2])
    return (pair, arguments[2:]) if pair in COMMANDS else (arguments[0], arguments[1:])


def unknown(name: str) -> str:
    names = list(dict.fromkeys(part for command in COMMANDS for part in (command, command.split()[0])))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    meant = f"Did you mean llama-exp {near[0]}?" if near else "llama-exp --help lists them."
    return f"No command {name!r}. {meant}"


def overview(names: list[str] | None = None) -> str:
    rows = [f"  {name:<14} {COMMANDS[name].help}" for name in names or COMMANDS]
    head = (
        []
        if names
        else ["Fine-tune a frozen Llama 2 with LoRA, score it, and learn how much data and rank a task needs.", ""]
    )
    return "\n".join(
        [
            *head,
            "llama-exp COMMAND key=value …",
            "",
            *rows,
            "",
            "llama-exp COMMAND --help lists a command's options; docs/commands.md has them all in one table.",
        ]
    )


def run_command(name: str, arguments: list[str] | None = None) -> None:
    """Run a command with its arguments (sys.argv's where None), and exit."""
    sys.stdout, sys.stderr = TerminalFilter(sys.stdout), TerminalFilter(sys.stderr)
    codes: list[int] = []
    atexit.register(_leave, codes)  # what is registered first runs last, when everything else has been put away
    codes.append(CommandLine(name, sys.argv[1:] if arguments is None else arguments).run())
    sys.exit(codes[0])


def _leave(codes: list[int]) -> None:
    """End the process with its exit code, without taking Python apart.

    That takes 3 s once torch is imported, and threads of libraries that are still running then abort the process: with
    torch 2.11 a refused command ended with SIGABRT instead of 2.
    """
    if not codes:  # an exception that nobody expected: Python prints it and sets the code
        return gc.freeze()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(codes[0])


def run_old_name(old: str, name: str, arguments: list[str] | None = None) -> None:
    """`python -m llama_exp.OLD`, until 0.3: print the new name and go on."""
    print(f"python -m {old} is now: llama-exp {name}", file=sys.stderr, flush=True)
    run_command(name, arguments)


class CommandLine:
    """One command as it was typed. run() executes it and returns the exit code.

    failures    the reasons of failed cells
    busy        how many cells another process worked on, also at the end
    """

    def __init__(self, name: str, arguments: list[str]) -> None:
        self.name, self.arguments = name, arguments
        self.command = COMMANDS[name]
        self.typed = list(sys.argv)
        self.failures: list[str] = []
        self.busy = 0
        self.stop = StopSignals()
        self.result: Any = None
        self.error: Exception | None = None  # of a single run, until Hydra has returned
        self.session: Any = None

    @functools.cached_property
    def function(self) -> Callable:
        return self.command.load()

    @functools.cached_property
    def parameters(self) -> dict[str, Any]:
        """{"config": Config, "options": ChatOptions}, or what the function takes of it."""
        return {name: kind for name, kind in get_type_hints(self.function).items() if name != "return"}

    def run(self) -> int:
        prepare_process()
        try:
            code = self._run()
            sys.stdout.flush()  # a full disk behind it is an error, too
            return code
        except (UserError, SweepRefused) as error:
            return _stopped(str(error), 1 if isinstance(error, ProcessLost) else 2)
        except ToBeContinued as stopped:
            # torchrun ends all processes where one does not end with 0.
            code = _stopped(stopped.message, os.EX_TEMPFAIL if _is_first() else 0)
            self.stop.pass_on()
            return code
        except KeyboardInterrupt as interrupt:
            self.stop.received = self.stop.received or signal.SIGINT
            message = str(interrupt) or "Interrupted. The same command continues from here."
            return _stopped(f"\n{message}", 130 if _is_first() else 0)
        except BrokenPipeError:  # the reader (`| head`) has seen enough: no success, for work may be left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _stopped("Stopped: the reader of this command's output has closed it.", 141)
        except Exception as error:
            if message := file_error_message(error):
                return _stopped(message, 2)
            if is_config_error(error):
                return _stopped(
                    config_error_message(error, self.arguments, known_keys(self.parameters.get("options"))), 2
                )
            raise
        finally:
            self.close()

    def close(self) -> None:
        """Wait for what is drawn beside the work, and leave the signals to whoever answered to them before."""
        try:
            if self.session:
                self.session.pages.finish(stopped=self.stop.received is not None)
        finally:
            self.stop.restore()

    def _run(self) -> int:
        if message := mistyped(self.arguments):
            raise UserError(message)
        kind = self.parameters.get("options")
        if kind and {"-h", "--help"} & set(self.arguments):
            print(self.help())
            return 0
        given, arguments = self.parse()
        if "session" in given and not _is_first():
            return self._follow(given["session"])
        if "config" in self.parameters:
            if not self.command.one_run:  # the others hold nothing that could be continued
                self.stop.install()
            self._run_with_hydra(arguments, given)
        elif arguments:
            raise UserError(self._unknown_options(arguments))
        else:
            self.result = self.function(**given)
        if self.failures or self.busy:
            return 1 if self.failures else os.EX_TEMPFAIL
        return self.result if isinstance(self.result, int) else 0

    def parse(self) -> tuple[dict[str, Any], list[str]]:
        """(what the function is given beside its config, the arguments that are Hydra's)."""
        kind = self.parameters.get("options")
        arguments, given = self.arguments, {}
        own = known_keys(kind)
        if kind and hasattr(kind, "check_arguments"):
            arguments = kind.check_arguments(arguments)
        arguments = [with_home(argument, quoted=argument.partition("=")[0] not in own) for argument in arguments]
        if kind:
            given["options"], arguments = parse_options(kind, arguments)
        if session := self.parameters.get("session"):
            given["session"] = self.session = session(stop=self.stop)
        return given, arguments

    def _follow(self, session: Any) -> int:
        """What the other processes of a command do: nothing, but for their part in a training."""
        if self.name == "train":
            from llama_exp.training.train import follow

            self.stop.install()
            follow(session)
        return 0

    def help(self) -> str:
        kind = self.parameters["options"]
        conf = " beside the keys of conf/ (llama-exp train --help)" if "config" in self.parameters else ""
        return f"{inspect.getdoc(self.function)}\n\nOptions{conf}:\n{options_help(kind)}"

    def _unknown_options(self, arguments: list[str]) -> str:
        """A line for each argument that is no option."""
        known = known_keys(self.parameters["options"])
        lines = []
        for argument in arguments:
            key, equals, _ = argument.partition("=")
            near = difflib.get_close_matches(key.lstrip("-"), known, n=1)
            meant = f"Did you mean {near[0]}?" if near else f"llama-exp {self.name} --help lists the options."
            lines.append(f"No option {key!r}. {meant}" if equals else f"{argument}: wanted key=value. {meant}")
        return "\n".join(lines)

    def _run_with_hydra(self, arguments: list[str], given: dict[str, Any]) -> None:
        """Let Hydra compose the config, or each cell's of a sweep, and call the function."""
        import hydra

        from llama_exp.config.compose import CONF, register
        from llama_exp.launch import plugins

        register()
        plugins.register()

        def job(cfg):
            sys.argv[:] = self.typed
            return self.run_cell(cfg, given)

        job.command_line = self  # type: ignore[attr-defined]  # hydra/launcher=… starts it in other processes
        if self.name == "train" and any(argument.startswith("question=") for argument in arguments):
            arguments = ["hydra/sweeper=adaptive", *arguments]
        sys.argv[1:] = overrides_first(arguments)
        try:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
        finally:
            sys.argv[:] = self.typed
        if self.error:
            raise self.error

    def run_cell(self, cfg: Any, given: dict[str, Any]) -> Any:
        """One run. A failing cell of a sweep is recorded and the next one starts; a single run's error is for run()."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from llama_exp.config.compose import resolve

        sweep = HydraConfig.get().mode is RunMode.MULTIRUN
        if self.session:
            self.session.pages.beside = sweep  # one run alone is not waited for by another
        try:
            if sweep and self.command.one_run:
                raise UserError(f"{self.command.one_run} Leave out -m and the commas.")
            launched = HydraConfig.get().launcher._target_.startswith("llama_exp.")
            if launched and is_distributed(cfg.trainer):
                raise UserError("trainer=ddp and fsdp do not go with hydra/launcher=: each of its workers has one GPU.")
            if launched and not sweep:
                raise UserError("hydra/launcher= starts the cells of a sweep: add -m, also for a single one.")
            if HydraConfig.get().sweeper._target_.endswith(".OptunaSweeper") and not sweep:
                raise UserError("hydra/sweeper=optuna draws the cells of a sweep: add -m.")
            if cfg.get("question") and not sweep:
                raise UserError("question= is answered by a sweep: add -m, and values with commas (sample=100,1000).")
            if cfg.get("stop_at") is not None and self.name != "train":
                raise UserError(f"stop_at={cfg.stop_at} is a key of train, and stops a training. Leave it out.")
            if cfg.get("dashboard") and not sweep:
                raise UserError("dashboard=true ends a sweep (-m). After single runs type: llama-exp dashboard")
            if cfg.get("dashboard") and importlib.util.find_spec("wandb_workspaces") is None:
                raise UserError(f"dashboard=true needs wandb-workspaces. Install it: {install('dashboard')}")
            self.result = self._call(resolve(cfg), given)
        except Exception as error:
            if not sweep:
                self.error = error  # Hydra would print a preamble
                return None
            return self._postpone(cfg, given, error) if isinstance(error, FolderBusy) else self._record_failure(error)
        return self.result

    def _call(self, config: Config, given: dict[str, Any]) -> Any:
        if not self.command.one_run:
            self.stop.install(config.stop_signal)  # again: submitit brought handlers of its own
        self.stop.stop_if_asked()
        return self.function(config=config, **given)

    def _postpone(self, cfg: Any, given: dict[str, Any], busy: FolderBusy) -> Any:
        """The outcome of a cell that another process works on: the sweep comes back to it when the others are done."""
        from hydra.core.hydra_config import HydraConfig

        from llama_exp.cli.sweep import Postponed
        from llama_exp.config.compose import resolve
        from llama_exp.runs.run import BUSY, Outcome

        of_cell = HydraConfig.instance().cfg

        def again() -> Outcome:
            HydraConfig.instance().cfg = of_cell  # says which keys were typed
            try:
                return self._call(resolve(cfg), given)
            except FolderBusy as error:
                self.busy += 1
                print(error, flush=True)
                return Outcome(BUSY, Path())
            except Exception as error:
                return self._record_failure(error)

        print("Another process works on this cell: the sweep comes back to it at its end.", flush=True)
        return Postponed(BUSY, busy.folder, again)

    def _record_failure(self, error: Exception) -> Any:
        """Print a cell's failure: each reason, and each bug's traceback, once. The last table counts the cells."""
        from llama_exp.runs.run import FAILED, Outcome

        message = file_error_message(error)
        bug = not (message or isinstance(error, UserError))
        reason = f"{type(error).__name__}: {error}" if bug else message or str(error)
        known = reason in self.failures
        if bug and not known:
            traceback.print_exception(error)
        print("FAILED as above." if known else f"FAILED: {reason}\nThe sweep continues with the next cell.", flush=True)
        self.failures.append(reason)
        return Outcome(f"{FAILED}{reason}", Path())


def overrides_first(arguments: list[str]) -> list[str]:
    """key=value before --flags: `dataset=squad -m sample=1,2` and any other order mean the same.

    Hydra's parser reads only the first unbroken run of overrides.
    """
    with_value = (
        "--cfg",
        "-c",
        "--package",
        "-p",
        "--config-path",
        "-cp",
        "--config-name",
        "-cn",
        "--config-dir",
        "-cd",
    )
    values = {index + 1 for index, argument in enumerate(arguments) if argument in with_value}
    flags = [i for i, argument in enumerate(arguments) if i in values or argument.startswith("-")]
    return [a for i, a in enumerate(arguments) if i not in flags] + [arguments[i] for i in flags]


def prepare_process() -> None:
    """Silence libraries and set the environment that they read when they are imported."""
    silence_libraries()
    codecs.register_error("spell", _spell)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="spell")
    if not _is_first():  # only the first one prints
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open until the process ends)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises errors instead of printing half a traceback
    # No command compiles anything, but bitsandbytes calls torch.compile when it is imported: 3 s for the compiler.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    # Threads that spin while they wait are 25 times slower on a busy machine; threads that sleep at once are a third
    # slower on an idle one. A short spin costs a sixth on either.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def _spell(error: UnicodeError) -> tuple[str, int]:
    """`3.0 +/- 0.2` for a terminal that knows only ASCII, or Latin-1."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(SPELT.get(c, "?") for c in error.object[error.start : error.end]), error.end


def _is_first() -> bool:
    """Of the processes that train one run together, the one that prints, writes and sets the exit code."""
    return process_number() == 0


def _stopped(message: str, code: int) -> int:
    if _is_first():
        print(message, file=sys.stderr, flush=True)
    return code
