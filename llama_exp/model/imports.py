"""The heavy imports, all at once: what loading a base needs."""

import functools
import gc
import sys


@functools.cache
def import_all() -> None:
    """Import what loading a base needs, before `BaseLoader.prefetch` starts a second thread.

    Two threads that import the same packages at once may each see half of a module.

    Python's garbage collector waits meanwhile: it would walk a million objects again and again, for an eighth of the
    time. What the libraries hold is never garbage, so it is not walked later either, and collecting before each cell
    costs little. What is garbage is collected first: the tracebacks of imports that failed hold the frames of whoever
    called this, and with them the data and the adapter of the first cell. A process that has imported torch before may
    hold a model of its own: it is left alone.
    """
    if "torch" in sys.modules or not gc.isenabled():
        return _import_all()
    gc.disable()
    try:
        _import_all()
    finally:
        gc.enable()
    gc.collect()
    gc.freeze()


def _import_all() -> None:
    import accelerate  # noqa: F401
    import bitsandbytes  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig  # noqa: F401
    from transformers.integrations import bitsandbytes as integration  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    from llama_exp.model import base  # noqa: F401
    from llama_exp.model.kernels import elementwise, warmup  # noqa: F401

    if torch.cuda.is_available():
        elementwise.liger()
