"""The frozen base model, usually in 4 bits. The adapters on it: llama_exp/model/lora.py.

One base serves a whole sweep: a `BaseLoader` keeps the last one in memory, and only the adapter changes between runs.
"""

import contextlib
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import torch
from torch import nn

from llama_exp.config.schema import Config, ModelConfig, Quantisation
from llama_exp.errors import UserError
from llama_exp.model.checkpoint import read_checkpoint, read_shape
from llama_exp.model.kernels import fp8
from llama_exp.model.kernels.projection import make_contiguous
from llama_exp.model.memory import check_fits, memory_limit
from llama_exp.model.sharding import load_sharded, shared_by
from llama_exp.model.spare_adapter import SpareAdapter
from llama_exp.model.tokenizer import readable, resolve_path
from llama_exp.model.upload import stored
from llama_exp.processes import is_sharded, local_number


def target_device(trainer: dict) -> torch.device:
    """`trainer.accelerator` -> the device the base is put on."""
    accelerator = trainer.get("accelerator", "auto")
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", local_number())
    if accelerator in ("gpu", "cuda"):
        raise UserError("trainer=gpu, but torch sees no GPU here. Type trainer=cpu (with model=tiny), or install CUDA.")
    return torch.device("cpu")


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware has it, else float16; float32 on CPU, where bfloat16 is 3 to 15 times slower."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def base_dtype(trainer: dict, device: torch.device) -> torch.dtype:
    """What the base computes in: float32 where `trainer.precision` says so (32-true), else what suits the device."""
    return torch.float32 if str(trainer.get("precision", "")).startswith("32") else compute_dtype(device)


class BaseLoader:
    """Loads base models and keeps one of them in memory: two would not fit beside each other on most cards.

    spare: what the next adapter on it takes over from the last one.
    """

    def __init__(self):
        self.spare = SpareAdapter()
        self._key: tuple | None = None  # what the base in memory was made from
        self._base: nn.Module | None = None
        self._thread: threading.Thread | None = None  # the last one that prefetched
        self._has_loaded = False

    def load(
        self, model: ModelConfig, device: torch.device, dtype: torch.dtype | None = None, sharded: bool = False
    ) -> nn.Module:
        """The frozen base on `device`, quantised as the config says; the same object again for the same config.

        sharded: this process's share of it alone; every process of the run loads at the same time.
        """
        dtype = dtype or compute_dtype(device)
        key = (model.path, model.revision, model.quantisation, str(device), dtype, sharded and shared_by())
        if self._base is None or key != self._key:
            self.forget()
            if self._has_loaded:
                gc.collect()  # Lightning, and the traceback of a failed load, hold the last base in reference cycles
            self._has_loaded = True
            self._base, self._key = load_base(model, device, dtype, sharded), key
        return self._base

    @contextlib.contextmanager
    def prefetch(
        self,
        model: ModelConfig,
        device: torch.device,
        dtype: torch.dtype,
        sharded: bool = False,
        waiting: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
        warm_up: Callable[[nn.Module], None] = lambda base: None,
        loading: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ) -> Iterator[Callable[[], nn.Module]]:
        """Load a base, and warm it up, in a thread while the block runs.

            with loader.prefetch(model, device, dtype) as base:
                ...  # read and tokenise data
                base()  # waits for the base, or raises what its loading raised

        `loading()` is around the loading. Leaving the block waits for the thread, timed by `waiting()`; an exception in
        the block is raised immediately.
        """
        outcome: Future = Future()

        def work() -> None:
            try:
                if device.type == "cuda":
                    torch.cuda.set_device(device)  # the current device is each thread's own, and starts as the first
                with short_turns():
                    with loading():
                        base = self.load(model, device, dtype, sharded)
                    warm_up(base)
                outcome.set_result(base)
            except BaseException as error:
                outcome.set_exception(error)

        if self._thread is not None:  # a run before this one failed while its base was being loaded: let that end first
            with waiting():
                self._thread.join()
        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()
        yield outcome.result
        with waiting():
            outcome.exception()

    def forget(self) -> None:
        """Release the base: it was changed for good, or its user keeps it."""
        self._base = self._key = None
        self.spare = SpareAdapter()


@contextlib.contextmanager
def short_turns() -> Iterator[None]:
    """Let Python change between its threads every half a millisecond instead of every 5.

    Between two copies to a GPU a thread that loads a base needs Python for a moment, and would wait as long for each.
    """
    usual = sys.getswitchinterval()
    sys.setswitchinterval(min(usual, 0.0005))
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def load_base(
    model: ModelConfig, device: torch.device | str, dtype: torch.dtype | None = None, sharded: bool = False
) -> nn.Module:
    """The frozen base on `device`, quantised as the config says, in evaluation mode; the caller owns it.

    dtype: what it computes in; by default what suits the device (`compute_dtype`).
    sharded: this process's share alone (llama_exp/model/sharding.py).
    Raises UserError for a model that is not there, or that would be computed wrongly.
    """
    device = torch.device(device)
    read = load_sharded if sharded else read_base
    base = read(model, device, dtype or compute_dtype(device))
    base.requires_grad_(False)
    base.config.use_cache = True
    return base.eval()


def read_base(model: ModelConfig, device: torch.device, dtype: torch.dtype) -> nn.Module:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, BitsAndBytesConfig
    from transformers.utils.logging import disable_progress_bar

    path = resolve_path(model.path)
    if Path(path).is_dir():  # a bar is for downloads
        disable_progress_bar()

    checkpoint = read_checkpoint(model)
    options = {"dtype": dtype, "device_map": {"": device}, "attn_implementation": "sdpa"}
    if model.quantisation is not Quantisation.none:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    with readable(model.path), stored(checkpoint.weights, device) as weights:
        model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(checkpoint.config)]
        base = model_class.from_pretrained(None, config=checkpoint.config, state_dict=weights, **options)
        # Set by from_pretrained only where it is given a path.
        for part in (base, base.model, base.config):
            part.name_or_path = path
        base.generation_config = read_generation_config(path, model.revision)
    base.checksums = checkpoint.checksums(model.sha256)
    if model.quantisation is Quantisation.nf4_dequantised:
        dequantise(base, dtype)
    disable_bf16_repacking(base)
    for decoder in base.model.layers:
        make_contiguous(decoder)
    return base


def read_generation_config(path: str, revision: str | None):
    """generation_config.json; where there is none, what config.json says of it, as from_pretrained reads it."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(path, revision=revision)
    except OSError:
        return GenerationConfig.from_pretrained(
            path, revision=revision, config_file_name="config.json", _from_model_config=True
        )


def check_gpu(config: Config, device: torch.device) -> None:
    """Raise UserError for a base that cannot be trained in the memory of a GPU, or in `memory=`; and for products that
    the GPU does not have."""
    if config.optimizer.fp8_backward:
        fp8.check(device)
    if config.memory or (is_sharded(config.trainer) and device.type == "cuda"):
        size = base_dtype(config.trainer, device).itemsize
        check_fits(read_shape(config.model), config, memory_limit(config, device), size)


def check_length(base: nn.Module, max_length: int) -> None:
    """Raise a UserError for rows longer than the positions that the base was trained on."""
    known = base.config.max_position_embeddings
    if max_length > known:
        raise UserError(
            f"max_length={max_length}: {base.config._name_or_path} knows {known} positions. Type max_length={known}."
        )
    window = getattr(base.config, "sliding_window", None)  # a Mistral's
    if window and max_length > window:
        raise UserError(
            f"max_length={max_length}: {base.config._name_or_path} attends to the last {window} tokens alone "
            f"(sliding_window), which is not computed here. Type max_length={window}."
        )


def disable_bf16_repacking(base: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for bfloat16 on CPUs that have AVX512-BF16.

    It does so at the first forward pass in evaluation mode. The repacked product has no gradient, so a training step
    after a validation would silently stop the gradient at the last layer; and replies would be computed in another
    precision than the loss (bitsandbytes 0.50, `Linear4bit.forward`).
    """
    for layer in base.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def dequantise(base: nn.Module, dtype: torch.dtype) -> None:
    """Replace every 4-bit layer by a plain one that holds the same (rounded) values in `dtype`."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    for parent in list(base.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Linear4bit):
                weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)
                plain = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None, device="meta")
                plain.weight = nn.Parameter(weight, requires_grad=False)
                if layer.bias is not None:
                    plain.bias = layer.bias
                setattr(parent, name, plain)
    for attribute in ("is_loaded_in_4bit", "is_quantized"):
        setattr(base, attribute, False)
    base.config.quantization_config = None
    base.hf_quantizer = None


def unpacked_size(parameter) -> int:
    """How many weights a parameter stands for: a 4-bit one packs two in a byte."""
    if hasattr(parameter, "stands_for"):  # scales (model/sharding.py)
        return parameter.stands_for
    state = getattr(parameter, "quant_state", None)
    return state.shape.numel() if state is not None else parameter.numel()
