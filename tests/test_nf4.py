"""NF4 as our GPU kernels read it: their formulas against bitsandbytes' (the kernels themselves: test_gpu.py)."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from llama_exp.config.schema import Targets
from llama_exp.model.base import load_base
from llama_exp.model.kernels import projection
from llama_exp.model.kernels.batch_decode import decode_batches, decode_one
from llama_exp.model.kernels.batches import DecodeRequest, make_batches
from llama_exp.model.kernels.decoder_layer import keep_in_memory
from llama_exp.model.lora import attach_lora, causal_lm, detach_lora

from .conftest import make_it_matter
from .test_training_module import CPU, LORA, base_config

SHAPES = [(96, 128), (172, 704), (37, 1088)]


def quantised(rows: int, columns: int, device="cpu"):
    weight = 0.02 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
    return quantize_4bit(weight.bfloat16().to(device), compress_statistics=True, quant_type="nf4", blocksize=64)


def formula(weight: torch.Tensor, state) -> torch.Tensor:
    """What nf4_triton computes for each weight, in float32, before it is rounded to the weight's type."""
    scales = state.state2.code[state.absmax.int()] * state.state2.absmax.repeat_interleave(256)[: len(state.absmax)]
    both = weight.flatten().int()
    values = state.code[torch.stack([both >> 4, both & 15], 1).flatten()]
    return (values.view(-1, 64) * (scales + state.offset)[:, None]).view(state.shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_formula_is_bitsandbytes_to_the_last_bit(shape):
    weight, state = quantised(*shape)
    assert torch.equal(formula(weight, state).bfloat16(), dequantize_4bit(weight, state))


class Reference:
    """The kernels' contracts in PyTorch, and how often they were called."""

    def __init__(self):
        self.products = 0

    def dequantise(self, weight, state, out):
        return out.copy_(formula(weight, state))

    def add_product(self, y, x, weight, state):
        self.products += 1
        y += x @ formula(weight, state).to(x.dtype).t()


@pytest.fixture
def reference(monkeypatch) -> Reference:
    """The paths of a GPU with Triton, on a CPU."""
    found = Reference()
    monkeypatch.setattr(projection, "_nf4_kernels", lambda weight, dtype: hasattr(weight, "quant_state") and found)
    return found


@pytest.mark.parametrize("kind", ["all", "attention", "untuned"])
def test_a_reply_that_reads_4_bit_weights_is_that_of_dequantised_ones(llama, reference, kind):
    base = load_base(base_config(llama), CPU)
    lora = dataclasses.replace(LORA, targets=Targets.attention if kind == "attention" else Targets.all)
    model = base if kind == "untuned" else attach_lora(base, lora, 0)
    make_it_matter(model)
    prompt = tuple(range(3, 20))

    def reply() -> list[int]:
        return list(decode_one(causal_lm(model).eval(), prompt, new=12, eos=-1))

    batches = make_batches([DecodeRequest(0, prompt, ())], 12, 1, 1e9)
    [[alone]] = decode_batches(causal_lm(model).eval(), batches, new=12, eos=-1)
    assert reference.products == 0, "an evaluation's numbers do not depend on what memory there is"
    # each step, layer and linear layer; and the second half of the prompt's last layer, which one token goes through
    assert reply() == alone.ids and reference.products == 11 * 3 * 7 + 4
    with keep_in_memory(causal_lm(model)):
        assert reply() == alone.ids and reference.products == 11 * 3 * 7 + 4, "weights that are kept are used"
    if model is not base:
        detach_lora(model)


def test_several_rows_are_multiplied_by_dequantised_weights(llama, reference):
    mlp = load_base(base_config(llama), CPU).model.layers[0].mlp
    gate_up = projection.Projection(mlp.gate_proj, mlp.up_proj, direct=True)
    x = torch.randn(2, mlp.gate_proj.in_features)
    both = gate_up.product(x, None, False)
    assert reference.products == 0
    one = gate_up.product(x[:1], None, False)
    assert reference.products == 2 and torch.allclose(one, both[:1], atol=1e-6)
    onto = torch.ones_like(one)
    assert torch.allclose(gate_up.product(x[:1], onto, in_place=False), one + 1, atol=1e-6) and onto.eq(1).all()
    found = gate_up.product(x[:1], onto, in_place=True)
    assert found is onto and torch.allclose(found, one + 1, atol=1e-6)


def test_other_layouts_are_left_to_bitsandbytes():
    nf4 = pytest.importorskip("llama_exp.model.kernels.nf4_triton", reason="no Triton", exc_type=ImportError)
    state = quantised(96, 128)[1]
    on_gpu = SimpleNamespace(is_cuda=True, dtype=torch.uint8)
    assert nf4.is_known(on_gpu, state)
    assert not nf4.is_known(SimpleNamespace(is_cuda=False, dtype=torch.uint8), state)
    assert not nf4.is_known(SimpleNamespace(is_cuda=True, dtype=torch.float32), state), "a base in shares"
    for changes in ({"nested": False}, {"quant_type": "fp4"}, {"blocksize": 128}, {"dtype": torch.float32}):
        other = SimpleNamespace(**{**vars(state), "nested": state.nested, **changes})
        assert not nf4.is_known(on_gpu, other), changes
