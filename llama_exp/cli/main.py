"""How a command ends: readable messages instead of tracebacks, and exit codes.

0 = done, 1 = at least one cell of a sweep failed, 2 = the command itself was wrong and nothing was started, 130 = Ctrl-C,
141 = whoever read its output closed it.
"""

import atexit
import dataclasses
import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama_exp.cli.errors import is_configuration_error, mistyped, own_words, readable
from llama_exp.errors import UserError
from llama_exp.quiet import silence_libraries
from llama_exp.runs.run import Outcome

failures: list[str] = []  # why cells of this process's sweep failed: its exit code, and the last line of its table


def record_failure(reason: str) -> Outcome:
    """Record a failed cell; the sweep goes on. A reason is printed once; the table at the end counts whom it hit."""
    known = reason in failures
    print("FAILED as above." if known else f"FAILED: {reason}\nThe sweep goes on with the next cell.", flush=True)
    failures.append(reason)
    return Outcome(f"FAILED: {reason}", Path())


def run_command(main: Callable[[], None]) -> None:
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
    silence_libraries()
    if os.environ.get("LOCAL_RANK", "0") != "0":  # a process that DistributedDataParallel started: the first one speaks
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open until the process ends)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands errors to us instead of printing half a traceback
    # Nothing that a command runs is compiled, but bitsandbytes calls torch.compile when it is imported: 3 s for the compiler
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    # Threads that spin while they wait are 25 times slower on a busy machine; that sleep at once, a third slower on an
    # idle one. A short spin costs a sixth on either.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    if typed := mistyped(sys.argv[1:]):
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
        if is_configuration_error(error):
            _stop(readable(error), 2)
        raise
    sys.exit(1 if failures else 0)


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
            return record_failure("trainer=ddp runs one cell at a time: type the cells one by one, without -m.")
        try:
            return function(cfg)
        except UserError as problem:
            if single:
                _stop(str(problem), 2)
            return record_failure(str(problem))
        except Exception as error:
            if single:
                raise
            reason = f"{type(error).__name__}: {error}"
            if reason not in failures:
                traceback.print_exc()
            return record_failure(reason)

    return wrapped


def with_options(doc: str, split: Callable, work: Callable, one_run: str | None = None) -> Any:
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
