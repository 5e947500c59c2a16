"""What only a GPU runs: kernels against the formulas that tests on a CPU hold, and answering with CUDA graphs."""

import sys

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import save_file

from llama_exp.config.compose import load_config
from llama_exp.data import DATASETS
from llama_exp.data.encoding import encode_held_out
from llama_exp.evaluation.generation import Reply, answers, stream
from llama_exp.model.kernels import batch_decode, decode_step, fp8
from llama_exp.model.kernels import nf4_triton as nf4
from llama_exp.model.kernels.triton_support import has_triton
from llama_exp.model.load import load_model
from llama_exp.model.upload import stored

from .test_nf4 import SHAPES, quantised


def test_triton_works_here():
    assert has_triton()


@pytest.mark.parametrize("shape", [(4096, 4096), *SHAPES])
def test_4_bit_weights_are_read_as_bitsandbytes_reads_them(shape):
    weight, state = quantised(*shape, device="cuda")
    exact = dequantize_4bit(weight, state)
    assert torch.equal(nf4.dequantise(weight, state, torch.empty_like(exact)), exact)
    x = torch.randn(1, shape[1], device="cuda").bfloat16()
    y = torch.randn(1, shape[0], device="cuda").bfloat16()
    expected = y.float() + x.float() @ exact.float().t()
    nf4.add_product(y, x, weight, state)
    assert (y.float() - expected).norm() < 0.004 * expected.norm()


@pytest.mark.parametrize("widths", [(4096, 1024, 1024), (22016,), (172,)])
def test_rounding_to_8_bits_is_that_of_a_cpu(widths):
    generator = torch.Generator("cuda").manual_seed(0)
    grads = [torch.randn(77, width, device="cuda", generator=generator).bfloat16() for width in widths]
    weights = [torch.randn(width, 688, device="cuda", generator=generator).bfloat16() for width in widths]
    for grad in grads:
        grad[1] = 0
    found = fp8.multiply(grads, *fp8.Fp8Weight(False).get(lambda: weights)).float().cpu()
    on_cpu = [x.cpu() for x in weights]
    expected = fp8.multiply([x.cpu() for x in grads], *fp8.Fp8Weight(False).get(lambda: on_cpu)).float()
    assert (found - expected).norm() < 0.01 * expected.norm() and (found[1] == 0).all()


def test_weights_arrive_whole(tmp_path):
    """Pieces and buffers that are used again, while the GPU is busy with the ones before."""
    weights = {name: torch.randn(5000, 4097).to(dtype) for name, dtype in (("a", torch.bfloat16), ("b", torch.float32))}
    save_file(weights, tmp_path / "weights")
    with stored([tmp_path / "weights"], torch.device("cuda", 0)) as found:
        for _ in range(3):
            for name, part in found.items():
                assert torch.equal(part[...].cpu(), weights[name]) and part.get_shape() == [5000, 4097]


@pytest.fixture(scope="module")
def answering():
    """(model, tokenizer, prompts, responses): the embedded model in NF4, and 60 questions."""
    words = ("model=tiny", "model.quantisation=nf4", "dataset=squad", "dataset.source=synthetic", "lora.r=4")
    config = load_config(*words, "trainer=gpu")
    model, tokenizer = load_model(config)
    data = DATASETS.of(config, tokenizer)
    data.setup()
    found = encode_held_out(data.held_out("test", 60), tokenizer, config.max_length, 24, True)
    return model, tokenizer, found.prompts, found.responses


def replies(answering, **how) -> list[Reply]:
    found = [reply for some in answers(*answering, max_new_tokens=24, batch=16, **how) for reply in some]
    return sorted(found, key=lambda reply: reply.index)


def test_graphs_and_running_ahead_change_no_reply(answering, monkeypatch):
    usual = replies(answering)
    assert usual == replies(answering), "a second evaluation, whose graphs have memory of their own"
    drawn = {}
    for way in ("graphs", "no graphs", "one batch after another"):
        if way == "no graphs":
            monkeypatch.setattr(decode_step, "GRAPH_FROM", sys.maxsize)
        if way == "one batch after another":
            monkeypatch.setattr(batch_decode, "can_run_ahead", lambda llama: False)
        assert replies(answering) == usual, way
        torch.manual_seed(0)
        drawn[way] = replies(answering, temperature=1.0)
    assert drawn["graphs"] == drawn["no graphs"] == drawn["one batch after another"] != usual


def test_a_single_reply_reads_4_bit_weights_and_ends_like_any_other(answering, monkeypatch):
    model, tokenizer, prompts, _ = answering
    used, add_product = [], nf4.add_product
    monkeypatch.setattr(nf4, "add_product", lambda *parts: used.append(1) or add_product(*parts))
    *pieces, reply = stream(model, tokenizer, prompts[0], max_new_tokens=24)
    assert used and "".join(pieces) == reply.text and 0 < reply.tokens <= 24
