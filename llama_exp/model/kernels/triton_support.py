"""Whether Triton works on this machine."""

from functools import lru_cache

from llama_exp.sanitize import reason


@lru_cache
def has_triton() -> bool:
    """Tried once, on the current GPU: Triton also needs the machine's C compiler, at its first call."""
    try:
        from llama_exp.model.kernels import nf4_triton

        nf4_triton.probe()
    except Exception as error:
        print(f"  Triton does not work here ({reason(error)}): slower kernels are used instead of ours.", flush=True)
        return False
    return True
