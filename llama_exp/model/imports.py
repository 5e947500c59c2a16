"""The heavy imports, all at once: what loading a base needs."""

import ctypes
import functools
import gc
import os
import sys
import threading
from concurrent.futures import Future

MAPS_MEMORY = 102  # CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
ALLOCATION = "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"


@functools.cache
def import_all() -> None:
    """Import what loading a base needs, before `BaseLoader.prefetch` starts a second thread.

    Two threads that import the same packages at once may each see half of a module.

    Python's garbage collector waits meanwhile: it would walk a million objects again and again, for a fifth of the
    time. What there is then is mostly the libraries' and never garbage, so it is not walked later either. A thread
    imports it, because the tracebacks of imports that failed, as libraries expect some to, hold the frames of all
    callers for good, and with them what a caller loads later on. A process that has imported torch before may hold a
    model of its own: it is left alone.
    """
    if "torch" in sys.modules or not gc.isenabled():
        return _import_all()
    if not set(ALLOCATION) & set(os.environ) and gpus_map_memory():
        # Training and answering take turns with blocks of other sizes: memory that can be mapped anew need not be freed
        # and asked for again.
        os.environ[ALLOCATION[0]] = "expandable_segments:True"
    outcome: Future = Future()

    def work() -> None:
        try:
            _import_all()
            outcome.set_result(None)
        except BaseException as error:
            outcome.set_exception(error)

    gc.disable()
    try:
        threading.Thread(target=work, daemon=True).start()  # Ctrl-C does not wait for it
        outcome.result()
    finally:
        gc.freeze()
        gc.enable()


def gpus_map_memory() -> bool:
    """Whether there are GPUs here whose driver can map memory: virtual ones, shared by several machines, cannot."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count, device, maps = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return False
    for number in range(count.value):
        if cuda.cuDeviceGet(ctypes.byref(device), number):
            return False
        if cuda.cuDeviceGetAttribute(ctypes.byref(maps), MAPS_MEMORY, device) or not maps.value:
            return False
    return count.value > 0


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
