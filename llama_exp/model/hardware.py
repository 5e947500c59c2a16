"""What hardware there is, and how much of it is used."""

import os
import re
from pathlib import Path

from llama_exp.config.identity import PACKAGED
from llama_exp.config.schema import Config, ModelConfig
from llama_exp.errors import UserError

# Dense bf16 matrix peak in FLOP/s, from the makers' data sheets.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12, "A10": 125e12}


LARGE = 4_000_000_000  # bytes of weights that a CPU is not asked to train on


def gpu_present() -> bool:
    """Whether a GPU can be expected, without importing torch (which takes seconds)."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return False
    return any(Path(p).exists() for p in ("/dev/nvidia0", "/dev/kfd", "/dev/dxg", "/proc/driver/nvidia/version"))


def check(config: Config) -> None:
    """Stop before anything heavy is imported where the base could not run."""
    if _needs_gpu(config.model) and (config.trainer.get("accelerator") == "cpu" or not gpu_present()):
        raise UserError(
            f"model={config.model.name} needs a GPU, and there is none here (or trainer=cpu was requested).\n"
            "Type model=tiny to run the same experiment with the small model in this package, or use a machine with a "
            "GPU; model.needs_gpu=false tries on the CPU all the same."
        )


def _needs_gpu(model: ModelConfig) -> bool:
    if model.needs_gpu is not None:
        return model.needs_gpu
    folder = PACKAGED.get(model.path, Path(model.path))
    return not folder.is_dir() or sum(path.stat().st_size for path in folder.glob("*.safetensors")) > LARGE


def utilisation(flops_per_second: float, device) -> float | None:
    """Model FLOP utilisation: the share of one card's bf16 peak (its SXM form's, where there are several).

    None on CPU and on cards that PEAKS does not name.
    """
    if device.type != "cuda":
        return None
    import torch

    name = torch.cuda.get_device_name(device)
    return next((flops_per_second / peak for card, peak in PEAKS.items() if re.search(rf"\b{card}\b", name)), None)
