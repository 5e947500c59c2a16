"""How a command ends: readable messages instead of tracebacks, and exit codes.

0 = done, 1 = at least one cell failed, 2 = the command itself was wrong and nothing was started.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable

from llama_exp.records import Problem


# Remarks of libraries on choices that are ours. Named one by one: an unknown warning stays visible.
REMARKS = (
    "`?is_gradient_checkpointing.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*does not have many workers.*",
    ".*Checkpoint directory.*exists.*",
    ".*The number of training batches.*",
    ".*Found .* module.*in eval mode.*",
    ".*MatMul8bitLt.*",
    ".*lr_scheduler.step.*",
    "`isinstance.*",
    ".*Trying to infer the `batch_size`.*",
)


def hush() -> None:
    """Silence the libraries' advertisements, progress bars of fast steps, and the REMARKS."""
    for message in REMARKS:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def run(main: Callable[[], None]) -> None:
    """Run a Hydra entry point. Problems and Hydra's own configuration errors are printed; bugs keep their traceback."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands errors to us instead of printing half a traceback
    hush()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads are 4 to 40 times slower on a busy machine
    try:
        main()
    except Problem as problem:
        _say(str(problem))
        sys.exit(2)
    except KeyboardInterrupt:
        _say("Interrupted. The same command continues from the last checkpoint.")
        sys.exit(130)
    except Exception as error:
        if _is_configuration(error):
            _say(_readable(error))
            sys.exit(2)
        raise
    from llama_exp.sweep import failures

    sys.exit(1 if failures else 0)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _is_configuration(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in ("hydra", "omegaconf")


def _readable(error: BaseException) -> str:
    """Hydra's message without its internals, plus the cause where that is what says something."""
    lines = [line for line in str(error).split("\n") if line.strip() and not line.strip().startswith(("full_key", "object_type", "set HYDRA", "reference_type"))]
    cause = error.__cause__
    if cause and str(cause) not in str(error):
        lines += [line for line in str(cause).split("\n") if line.strip() and not line.strip().startswith(("object_type", "reference_type"))]
    return "\n".join(lines)
