"""The heavy imports, all at once: what loading a base needs."""

import functools
import gc
import sys
from concurrent.futures import ThreadPoolExecutor


@functools.cache
def import_all() -> None:
    """Import what loading a base needs, before `BaseLoader.prefetch` starts a second thread.

    Two threads that import the same packages at once may each see half of a module.

    Python's garbage collector waits meanwhile: it would walk a million objects again and again, for a fifth of the
    time. What the libraries hold is never garbage, so it is not walked later either. A thread imports it, because the
    tracebacks of imports that failed, as libraries expect some to, hold the frames of all callers for good, and with
    them what a caller loads later on. A process that has imported torch before may hold a model of its own: it is left
    alone.
    """
    if "torch" in sys.modules or not gc.isenabled():
        return _import_all()
    gc.disable()
    try:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(_import_all).result()
    finally:
        gc.freeze()
        gc.enable()


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
