"""Our forward pass of a Llama with LoRA, and its gradients, against transformers' and PEFT's own."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from llama_exp.config.schema import Quantisation, Targets
from llama_exp.data.packing import collate
from llama_exp.errors import UserError
from llama_exp.model.base import check_length, load_base
from llama_exp.model.kernels import decoder_layer as layer_module
from llama_exp.model.kernels import forward
from llama_exp.model.kernels.attention import Segments, attend
from llama_exp.model.kernels.decoder_layer import keep_in_memory
from llama_exp.model.kernels.elementwise import gated, gated_backward, rms_norm, rms_norm_backward, rotate
from llama_exp.model.kernels.forward import response_nll, token_nll
from llama_exp.model.kernels.lora_linear import dropout
from llama_exp.model.kernels.projection import Projection
from llama_exp.model.kernels.warmup import run_kernels
from llama_exp.model.lora import attach_lora, causal_lm, detach_lora, load_lora, save_lora
from llama_exp.records import Tokens

from .conftest import make_it_matter
from .test_training_module import CPU, LORA, adapted, base_config, items  # noqa: F401 (adapted is a fixture)


def theirs(model, tokens) -> list[torch.Tensor]:
    """The same losses by PEFT's and transformers' own modules, one Example at a time."""
    found = []
    for item in tokens:
        ids, labels = torch.tensor([item.input_ids]), torch.tensor(item.labels)
        logits = model(input_ids=ids, use_cache=False).logits[0]
        nll = F.cross_entropy(logits[:-1].float(), labels[1:], reduction="none", ignore_index=-100)
        found.append(nll[labels[1:] != -100])
    return found


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def agree(ours, peft, rel=1e-5):
    assert ours.keys() == peft.keys() and ours
    for name in peft:
        assert torch.allclose(ours[name], peft[name], rtol=rel, atol=rel * float(peft[name].abs().max())), name


@pytest.fixture(params=["all", "attention", "recomputed", "plain base"])
def model(request, llama):
    quantisation = Quantisation.none if request.param == "plain base" else Quantisation.nf4
    lora = dataclasses.replace(LORA, targets=Targets.attention if request.param == "attention" else Targets.all)
    model = attach_lora(load_base(base_config(llama, quantisation), CPU), lora, 0, request.param == "recomputed")
    make_it_matter(model)
    yield model
    detach_lora(model)


def test_losses_and_gradients_are_those_of_peft_and_transformers(model):
    tokens = items()
    peft = torch.cat(theirs(model, tokens))
    ours, _ = response_nll(model, collate(tokens))
    assert torch.allclose(ours, peft, rtol=1e-5, atol=1e-5)
    weights = torch.rand(len(peft), generator=torch.Generator().manual_seed(0))
    agree(gradients(model, (ours * weights).sum()), gradients(model, (peft * weights).sum()))


def test_twenty_steps_go_the_same_way(llama):
    """AdamW amplifies what differs in the last bit, so the losses are held to 1e-5 of each other, not the weights."""
    base, tokens, curves = load_base(base_config(llama), CPU), items(), []
    for ours in (True, False):
        model = attach_lora(base, LORA, seed=0)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
        losses = []
        for _ in range(20):
            nll = response_nll(model, collate(tokens))[0] if ours else torch.cat(theirs(model, tokens))
            optimizer.zero_grad()
            nll.mean().backward()
            optimizer.step()
            losses.append(float(nll.detach().mean()))
        curves.append(losses)
        detach_lora(model)
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
    assert curves[0][-1] < curves[0][0] - 0.05


def test_dropout_is_the_same_forward_and_backward(llama):
    """The mask is drawn again for the gradient: compared with the slope of the loss itself, at the same draws."""
    lora = dataclasses.replace(LORA, dropout=0.3)
    for recompute in (False, True):
        model = attach_lora(load_base(base_config(llama), CPU), lora, 0, recompute)
        make_it_matter(model)
        batch = collate(items())

        def loss(model=model, batch=batch):
            torch.manual_seed(7)
            return response_nll(model, batch)[0].double().sum()

        try:
            found = gradients(model, loss())
            for name in [name for name in found if "layers.0.mlp.down" in name or "layers.1.self_attn.q" in name]:
                parameter = model.get_parameter(name)
                direction = found[name] / found[name].norm()
                with torch.no_grad():
                    parameter += 1e-2 * direction
                    up = loss()
                    parameter -= 2e-2 * direction
                    down = loss()
                    parameter += 1e-2 * direction
                assert float(up - down) / 2e-2 == pytest.approx(float(found[name].norm()), rel=2e-2), name
            model.eval()
            assert torch.equal(loss(), loss())
            still = loss()
            model.train()
            assert not torch.equal(loss(), still), "dropout is on while training"
        finally:
            detach_lora(model)


def test_dropout_keeps_the_mean():
    x = torch.ones(200, 200)
    assert float(dropout(x, 0.25, 3).mean()) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(dropout(x, 0.25, 3), dropout(x, 0.25, 3))
    assert not torch.equal(dropout(x, 0.25, 3), dropout(x, 0.25, 4))


def test_the_written_out_gradients_are_autograds():
    torch.manual_seed(0)
    x, weight, grad = (torch.randn(5, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    weight = weight[0].detach()
    normed, rstd = rms_norm(x.float(), weight.float(), 1e-5)
    reference = torch.nn.functional.rms_norm(x, (8,), weight, 1e-5)
    assert torch.allclose(normed.double(), reference, atol=1e-6)
    [expected] = torch.autograd.grad(reference, x, grad)
    assert torch.allclose(
        rms_norm_backward(grad.float(), x.float(), weight.float(), rstd).double(), expected, atol=1e-5
    )

    up = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    expected = torch.cat(torch.autograd.grad(F.silu(x) * up, (x, up), grad), -1)
    both = torch.cat([x, up], -1).detach()
    assert torch.allclose(gated(both), F.silu(x) * up)
    assert torch.allclose(gated_backward(grad.float(), both.float()).double(), expected, atol=1e-5)


def test_turning_back_is_the_gradient_of_turning():
    torch.manual_seed(0)
    angle = torch.rand(5, 4).repeat(1, 2)
    q, k, grad = (
        torch.randn(5, 3, 8, requires_grad=True),
        torch.randn(5, 1, 8, requires_grad=True),
        torch.randn(5, 3, 8),
    )
    turned, _ = rotate(q, k, angle.cos(), angle.sin())
    assert torch.allclose(turned.norm(dim=-1), q.norm(dim=-1), atol=1e-5)
    [expected] = torch.autograd.grad(turned, q, grad)
    back, _ = rotate(grad, k.detach(), angle.cos(), -angle.sin())
    assert torch.allclose(back, expected, atol=1e-5)


def test_queries_may_be_the_end_of_a_longer_text():
    torch.manual_seed(0)
    q, k, v = torch.randn(9, 4, 8), torch.randn(9, 2, 8), torch.randn(9, 2, 8)
    whole = attend(q, k, v, Segments.of([5, 4], "cpu"))
    tails = attend(torch.cat([q[3:5], q[6:]]), k, v, Segments.of([2, 3], "cpu", keys=[5, 4]))
    assert torch.allclose(tails, torch.cat([whole[3:5], whole[6:]]), atol=1e-6)


def test_the_output_layer_in_parts_is_the_output_layer(monkeypatch):
    monkeypatch.setattr(forward, "CHUNK", 3)
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(8, 6, requires_grad=True), torch.randn(20, 6), torch.randint(20, (8,))
    scale = torch.rand(8)
    expected = F.cross_entropy(hidden @ weight.t(), targets, reduction="none")
    found = token_nll(hidden, weight, targets)
    assert torch.allclose(found, expected, atol=1e-6)
    right, mine = (torch.autograd.grad((nll * scale).sum(), hidden)[0] for nll in (expected, found))
    assert torch.allclose(mine, right, atol=1e-6)


def test_no_token_is_computed_that_is_not_an_examples(adapted, monkeypatch):  # noqa: F811
    """No padding; and the last layer's second half and the output layer see the labelled tokens alone."""
    seen = {"embedded": [], "last": []}
    llama = causal_lm(adapted)
    embed = llama.get_input_embeddings().register_forward_hook(lambda *_, ids=seen["embedded"]: ids.append(_[2].shape))
    run = forward.Layer.run
    monkeypatch.setattr(forward.Layer, "run", lambda *a, **k: (y := run(*a, **k), seen["last"].append(len(y)))[0])
    tokens = items()
    response_nll(adapted, collate(tokens))
    embed.remove()
    assert [shape[:2] for shape in seen["embedded"]] == [(1, sum(len(item.input_ids) for item in tokens))]
    assert seen["last"][-1] == sum(item.label_tokens for item in tokens) < seen["last"][0]


def test_plain_weights_of_gate_and_up_are_one_matrix_without_a_copy(llama):
    base = load_base(base_config(llama, Quantisation.nf4_dequantised), CPU)
    mlp = base.model.layers[0].mlp
    whole = Projection(mlp.gate_proj, mlp.up_proj).weight(torch.float32)
    assert whole.data_ptr() == mlp.gate_proj.weight.data_ptr()
    assert torch.equal(whole, torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]))
    kept = mlp.up_proj.weight.data
    mlp.up_proj.weight.data = kept + 1  # what a merge may do: no stale copy is used
    try:
        assert torch.equal(Projection(mlp.gate_proj, mlp.up_proj).weight(torch.float32)[-1], kept[-1] + 1)
    finally:
        mlp.up_proj.weight.data = kept


def test_held_weights_are_the_same_numbers(adapted):  # noqa: F811
    batch = collate(items())
    with torch.no_grad():
        made_anew, _ = response_nll(adapted, batch)
        with keep_in_memory(causal_lm(adapted)):
            kept, _ = response_nll(adapted, batch)
    assert torch.equal(made_anew, kept)


def test_what_is_kept_for_the_gradient_is_what_would_be_made_again(adapted):  # noqa: F811
    batch = collate(items())
    made_again = gradients(adapted, response_nll(adapted, batch)[0].sum())
    with keep_in_memory(causal_lm(adapted), activations=True):
        kept = gradients(adapted, response_nll(adapted, batch)[0].sum())
    assert made_again.keys() == kept.keys() and all(torch.equal(made_again[name], kept[name]) for name in kept)


def test_an_empty_share_of_a_step_has_no_loss_and_gives_gradients_of_nothing(adapted):  # noqa: F811
    nll, places = response_nll(adapted, collate([]))
    assert len(nll) == len(places) == 0
    found = gradients(adapted, nll.sum())
    assert found and all(float(g.abs().sum()) == 0 for g in found.values())


def test_recomputing_keeps_only_the_layers_inputs(llama):
    """What a step keeps between forward and backward, counted in bytes of saved tensors."""
    kept = {}
    for recompute in (False, True):
        model = attach_lora(load_base(base_config(llama), CPU), LORA, 0, recompute)
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.__setitem__(t.data_ptr(), t.numel() * t.element_size()) or t, lambda t: t
        ):
            loss = response_nll(model, collate(items(16)))[0].sum()
        loss.backward()
        kept[recompute] = sum(sizes.values())
        detach_lora(model)
    assert kept[True] < 0.5 * kept[False]


@pytest.mark.parametrize("at_once", [1000, 7])
def test_recomputing_some_tokens_at_a_time_gives_the_same_gradients(llama, monkeypatch, at_once):
    """Every token has a label here, so the last layer is computed again too."""
    monkeypatch.setattr(layer_module, "MLP_TOKENS", at_once)
    tokens = [Tokens(item.id, item.input_ids, [-100, *item.input_ids[1:]]) for item in items()]
    found = {}
    for recompute in (False, True):
        model = attach_lora(load_base(base_config(llama), CPU), LORA, 0, recompute)
        make_it_matter(model)
        peft = gradients(model, torch.cat(theirs(model, tokens)).sum())
        found[recompute] = gradients(model, response_nll(model, collate(tokens))[0].sum())
        agree(found[recompute], peft)
        detach_lora(model)
    assert not any(hasattr(part, "cached_weight") for part in load_base(base_config(llama), CPU).modules())


@pytest.mark.parametrize("all_labelled", [True, False])
def test_recomputing_changes_nothing_under_dropout_either(llama, all_labelled):
    """Otherwise what a run learns would depend on the memory that was free."""
    tokens = [
        Tokens(item.id, item.input_ids, [-100, *item.input_ids[1:]]) if all_labelled else item for item in items()
    ]
    found = []
    for recompute in (False, True):
        model = attach_lora(load_base(base_config(llama), CPU), dataclasses.replace(LORA, dropout=0.2), 0, recompute)
        make_it_matter(model)
        torch.manual_seed(3)
        found.append(gradients(model, response_nll(model, collate(tokens))[0].sum()))
        detach_lora(model)
    agree(*found)


def test_memory_does_not_grow_over_thirty_cells(llama):
    """A sweep in one process: after each cell only the base is left."""
    import gc

    base, tokens = load_base(base_config(llama), CPU), items()

    def cell(seed) -> int:
        model = attach_lora(base, LORA, seed)
        gradients(model, response_nll(model, collate(tokens))[0].sum())
        detach_lora(model)
        del model
        gc.collect()
        return sum(thing.numel() for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter))

    cell(0)
    after = [cell(seed) for seed in range(30)]
    assert len(set(after)) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "rotary positions"),
    ],
)
def test_a_llama_that_would_be_computed_wrongly_is_refused(llama, tmp_path, changes, said):
    import json
    import shutil

    shutil.copytree(llama, tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    with pytest.raises(UserError, match=said):
        load_base(base_config(tmp_path / "other"), CPU)


def test_an_adapter_that_would_be_computed_wrongly_is_refused(adapted, tmp_path):  # noqa: F811
    import json

    save_lora(adapted, tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_dora": True}))
    with pytest.raises(UserError, match="use_dora, which would be computed wrongly"):
        load_lora(detach_lora(adapted), tmp_path / "adapter")


def test_recomputing_leaves_no_hook_behind(llama):
    base = load_base(base_config(llama), CPU)
    before = len(base.get_input_embeddings()._forward_hooks)
    for _ in range(3):
        detach_lora(attach_lora(base, LORA, 0, recompute=True))
    assert len(base.get_input_embeddings()._forward_hooks) == before


def test_rows_longer_than_the_base_knows_are_refused(llama):
    base = load_base(base_config(llama), CPU)
    check_length(base, 512)
    with pytest.raises(UserError, match=r"knows 512 positions. Type max_length=512"):
        check_length(base, 513)


def test_warming_up_runs_every_kernel_and_leaves_the_base_as_it_is(llama):
    base = load_base(base_config(llama), CPU)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    state = torch.get_rng_state()
    run_kernels(base, rank=4)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in base.parameters()) and not hasattr(base, "peft_config")
