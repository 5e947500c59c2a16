"""optimizer.fp8_backward: what is rounded, how far gradients stray, and what stays as it is."""

import dataclasses
import json

import pytest
import torch

from llama_exp.config.compose import default_config
from llama_exp.data.packing import collate
from llama_exp.errors import UserError
from llama_exp.model.base import load_base
from llama_exp.model.kernels import decoder_layer as layer_module
from llama_exp.model.kernels import fp8
from llama_exp.model.kernels.decoder_layer import keep_in_memory
from llama_exp.model.kernels.forward import response_nll
from llama_exp.model.kernels.warmup import run_kernels
from llama_exp.model.lora import attach_lora, causal_lm, detach_lora
from llama_exp.model.memory import fit, needs

from .conftest import make_it_matter
from .test_kernels import gradients
from .test_memory import GIB, LLAMA_7B, plan
from .test_train import only_run, small
from .test_training_module import CPU, LORA, adapted, base_config, items  # noqa: F401 (adapted is a fixture)

BF16_ERROR = 0.0017  # of a product whose factors are rounded to bfloat16


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def product(grads, weights) -> torch.Tensor:
    return fp8.multiply(grads, *fp8.Fp8Weight(kept=False).get(lambda: weights))


def test_a_product_in_8_bits_is_a_few_percent_off():
    """Three mantissa bits: each factor is off by 2.6 % on average, so their product is by 3.7."""
    grads, weights = [random(70, 48), random(70, 16, seed=1)], [random(48, 32, seed=2), random(16, 32, seed=3)]
    exact = grads[0] @ weights[0] + grads[1] @ weights[1]
    assert 10 * BF16_ERROR < distance(product(grads, weights), exact) < 0.045


def test_rows_of_very_different_size_are_rounded_alike():
    """Gradients of one batch differ by orders of magnitude: each row has a scale of its own."""
    sizes = torch.logspace(-20, 20, 41)[:, None]
    grads, weight = random(41, 64), random(64, 32, seed=1)
    small_and_large, alike = product([grads * sizes], [weight]), product([grads], [weight])
    assert torch.allclose(small_and_large / sizes, alike, rtol=1e-4, atol=1e-5)


def test_rows_of_zeros_stay_zeros_and_what_is_not_finite_is_seen():
    grads = random(4, 16)
    grads[1] = 0
    grads[2, 3], grads[3, 5] = float("nan"), float("inf")
    found = product([grads], [random(16, 8, seed=1)])
    assert found[0].isfinite().all() and (found[1] == 0).all()
    assert not found[2].isfinite().any() and not found[3].isfinite().any()
    assert (product([grads[:1]], [torch.zeros(16, 8)]) == 0).all()


def test_losses_are_the_same_and_gradients_stray_a_little(adapted):  # noqa: F811
    make_it_matter(adapted)
    batch, llama = collate(items()), causal_lm(adapted)
    exact_nll, _ = response_nll(adapted, batch)
    exact = gradients(adapted, exact_nll.sum())
    with keep_in_memory(llama, False, False, fp8=True):
        nll, _ = response_nll(adapted, batch)
        found = gradients(adapted, nll.sum())
    assert torch.equal(nll, exact_nll)
    for kind in "AB":
        whole, rounded = (
            torch.cat([g.flatten() for name, g in some.items() if f"lora_{kind}" in name]) for some in (exact, found)
        )
        assert 0 < distance(rounded, whole) < 0.1, kind
    last = [name for name in exact if "layers.2" in name and "down_proj.lora_B" in name]
    assert last and all(torch.equal(found[name], exact[name]) for name in last), "nothing was handed back to it yet"
    after, _ = response_nll(adapted, batch)
    exactly = gradients(adapted, after.sum())
    assert all(torch.equal(exactly[name], exact[name]) for name in exact), "only while it is asked for"


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("at_once", [1000, 7])
def test_kept_or_made_again_recomputed_or_not_the_gradients_are_the_same(llama, monkeypatch, dropout, at_once):
    monkeypatch.setattr(layer_module, "MLP_TOKENS", at_once)
    batch, found = collate(items()), []
    for recompute, kept in ((False, False), (False, True), (True, False)):
        lora = dataclasses.replace(LORA, dropout=dropout)
        model = attach_lora(load_base(base_config(llama), CPU), lora, 0, recompute)
        make_it_matter(model)
        model.train()
        for _ in range(2):  # the second time, kept weights are those of the first
            torch.manual_seed(0)
            with keep_in_memory(causal_lm(model), kept, False, fp8=True):
                found.append(gradients(model, response_nll(model, batch)[0].sum()))
        layers = list(causal_lm(model).modules())
        assert not any("fp8_weight" in vars(layer) or "cached_weight" in vars(layer) for layer in layers)
        detach_lora(model)
    for other in found[1:]:
        for name, gradient in found[0].items():
            close = 1e-3 * float(gradient.abs().max())
            assert torch.allclose(other[name], gradient, rtol=1e-2, atol=close), name


def test_the_kernels_are_warmed_up_for_it_and_the_base_stays_as_it_was(llama, monkeypatch):
    used, multiply = [], fp8.multiply
    monkeypatch.setattr(fp8, "multiply", lambda *parts: used.append(1) or multiply(*parts))
    base = load_base(base_config(llama), CPU)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    run_kernels(base, 4, fp8=True)
    assert used and all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())
    assert not any("fp8_weight" in vars(layer) for layer in base.modules())


def test_memory_is_counted_for_weights_in_8_bits():
    config = default_config({"dataset": "squad", "model": "llama2_7b"})
    config.batch = 8
    before = needs(LLAMA_7B, config, 2, fused=True)
    config.optimizer.fp8_backward = True
    need = needs(LLAMA_7B, config, 2, fused=True)
    assert need.in_8_bits == need.dequantised / 2 and need.weights - before.weights == 3 * 4096 * 11008
    rooms = [room for room in range(40, 80) if fits_kept(need, config, room)]
    without = [room for room in range(40, 80) if fits_kept(before, config, room)]
    assert rooms[0] - without[0] == pytest.approx(need.in_8_bits / GIB, abs=1)


def fits_kept(need, config, room: float) -> bool:
    return fit(need, room * GIB, plan(32, 2048, 8), config, 8, 1, room * GIB).cache_weights


def test_a_gpu_without_such_products_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    with pytest.raises(UserError, match=r"fp8_backward=true needs an NVIDIA GPU of the generation Ada.*A100. Leave it"):
        fp8.check(torch.device("cuda", 0))
    fp8.check(CPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    fp8.check(torch.device("cuda", 0))


def test_a_run_with_it_is_another_run_and_its_first_loss_the_same(tmp_path, command):
    outputs = {}
    for name in ("false", "true"):
        command("train.py", *small(sample="8"), f"optimizer.fp8_backward={name}", f"outputs={tmp_path}/{name}")
        outputs[name] = only_run(tmp_path / name)
    assert "fp8_backwardTrue" in outputs["true"].name and "fp8" not in outputs["false"].name
    losses = {
        name: [line.split(",")[2] for line in (folder / "metrics.csv").read_text().splitlines()[:2]]
        for name, folder in outputs.items()
    }
    assert losses["true"] == losses["false"], "the first step's forward pass"
    hashes = {name: (folder / "adapter" / "adapter_model.safetensors").read_bytes() for name, folder in outputs.items()}
    assert hashes["true"] != hashes["false"]
    assert json.loads((outputs["true"] / "summary.json").read_text())["status"] == "finished"
