"""The contracts of training: isolation of packed Examples, token-exact accumulation, exact resume, what is saved."""

import dataclasses
import gc
import math
import shutil
import sys
import weakref

import pytest
import torch

from llama_exp.config.compose import default_config
from llama_exp.config.schema import (
    LoraConfig,
    ModelConfig,
    OptimizerConfig,
    OptimizerName,
    Quantisation,
    Scaling,
    Schedule,
    Source,
    Targets,
)
from llama_exp.data import DATASETS
from llama_exp.data.packing import Plan, StepSampler, collate, step_loader, whole_loader
from llama_exp.errors import UserError
from llama_exp.model.base import BaseLoader, load_base
from llama_exp.model.kernels.forward import response_nll
from llama_exp.model.lora import attach_lora, causal_lm, detach_lora, load_lora, save_lora, scale
from llama_exp.model.spare_adapter import SpareAdapter
from llama_exp.model.tokenizer import load_tokenizer
from llama_exp.records import Tokens
from llama_exp.training import callbacks
from llama_exp.training import module as training_module
from llama_exp.training.callbacks import Checkpoints, Curves
from llama_exp.training.checkpoint import WholeCheckpoints
from llama_exp.training.module import FineTuningModule, PendingStep, neftune
from llama_exp.training.trainer import validation_interval

from .conftest import make_it_matter

LORA = LoraConfig(r=4, alpha=16, scaling=Scaling.fixed_alpha, ratio=2.0, dropout=0.0, targets=Targets.all)
ADAMW = OptimizerConfig(OptimizerName.adamw, 1e-2, 0.0, [0.9, 0.999], Schedule.constant, 0.0, 0.0)
CPU = torch.device("cpu")


def base_config(llama, quantisation=Quantisation.nf4) -> ModelConfig:
    return ModelConfig(name="small", path=str(llama), quantisation=quantisation, needs_gpu=False)


@pytest.fixture
def adapted(llama):
    """A 4-bit base with an adapter whose B is not 0, so that it does something."""
    model = attach_lora(load_base(base_config(llama), CPU), LORA, seed=0)
    make_it_matter(model)
    yield model
    detach_lora(model)


def items(count: int = 8) -> list[Tokens]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for n in range(count):
        prompt, answer = 6 + n * 5 % 17, 1 + n * 3 % 7  # answers of different lengths: what means of means get wrong
        ids = torch.randint(3, 250, (prompt + answer,), generator=generator).tolist()
        made.append(Tokens(str(n), [1, *ids], [-100] * (prompt + 1) + ids[prompt:]))
    return made


def nll_of(model, tokens) -> dict[str, list[float]]:
    nll, _ = response_nll(model, collate(tokens))
    parts = nll.split([item.label_tokens for item in tokens])
    return {item.id: part.tolist() for item, part in zip(tokens, parts, strict=True)}


@torch.no_grad()
def test_packed_examples_do_not_see_each_other(adapted):
    packed = nll_of(adapted, items())
    for item in items():
        assert packed[item.id] == pytest.approx(nll_of(adapted, [item])[item.id], abs=2e-5)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_packed_examples_stay_apart_in_transformers_own_forward_pass_too(adapted, implementation):
    """Whoever uses a Batch with a LightningModule of their own: restarted positions, no mask, no cache."""
    llama = causal_lm(adapted)
    before = llama.config._attn_implementation
    llama.set_attn_implementation(implementation)
    try:
        batch = collate(items())
        logits = llama(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits[0]
        nll = torch.nn.functional.cross_entropy(
            logits[batch.predicting], batch.labels[0, batch.predicting + 1], reduction="none"
        )
        assert torch.allclose(nll, response_nll(adapted, batch)[0], atol=2e-5)
    finally:
        llama.set_attn_implementation(before)


@torch.no_grad()
def test_isolation_would_be_noticed_if_it_broke(adapted):
    batch = collate(items())
    kept, _ = response_nll(adapted, batch)
    leaked, _ = response_nll(adapted, dataclasses.replace(batch, lengths=(sum(batch.lengths),)))
    assert (kept - leaked).abs().max() > 1e-2


@torch.no_grad()
def test_the_loss_is_the_models_own(adapted):
    [item] = items(1)
    batch = collate([item])
    nll, _ = response_nll(adapted, batch)
    theirs = adapted(input_ids=batch.input_ids, labels=batch.labels).loss
    assert float(nll.mean()) == pytest.approx(float(theirs), rel=1e-5)


def gradients_of_one_step(model, micro_batch: int, tokens) -> dict[str, torch.Tensor]:
    """The gradients before clipping of a real Lightning step of all tokens, `micro_batch` Examples a forward pass."""
    import lightning as L

    caught = {}

    class Caught(FineTuningModule):
        def on_before_optimizer_step(self, optimizer):
            super().on_before_optimizer_step(optimizer)
            caught.update({name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None})

    plan = Plan(tokens, len(tokens), seed=0, max_epochs=1)
    sampler = StepSampler(plan, micro_batch)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=sampler.accumulation,
        gradient_clip_val=1e-3,
        use_distributed_sampler=False,
    )
    trainer.fit(Caught(model, ADAMW, 1, 0), step_loader(tokens, sampler))
    return caught


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_accumulation_is_token_exact(llama, micro_batch):
    """Compared before clipping: AdamW and clipping would hide a wrong factor."""
    base = load_base(base_config(llama), CPU)
    tokens = items(8)

    def gradients(micro):
        model = attach_lora(base, LORA, seed=0)
        try:
            return gradients_of_one_step(model, micro, tokens)
        finally:
            detach_lora(model)

    whole, parts = gradients(8), gradients(micro_batch)
    assert whole.keys() == parts.keys() and whole
    for name in whole:
        assert torch.allclose(whole[name], parts[name], rtol=1e-4, atol=1e-7), name
    assert max(float(g.abs().max()) for g in whole.values()) > 1e-4


def test_the_gradient_is_that_of_the_mean_over_label_tokens(llama):
    base = load_base(base_config(llama), CPU)
    tokens = items(8)
    model = attach_lora(base, LORA, seed=0)
    try:
        stepped = gradients_of_one_step(model, 2, tokens)
    finally:
        detach_lora(model)
    model = attach_lora(base, LORA, seed=0)
    try:
        model.train()
        batch = collate(tokens)
        nll, _ = response_nll(model, batch)
        nll.mean().backward()
        plain = {f"model.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert stepped.keys() == plain.keys()
        for name in plain:
            assert torch.allclose(stepped[name], plain[name], rtol=1e-4, atol=1e-7), name
    finally:
        detach_lora(model)


def test_gradients_reach_the_first_layer_also_after_an_evaluation(adapted):
    """bitsandbytes repacks 4-bit weights in evaluation mode on some CPUs, and the repacked product has no gradient."""
    batch = collate(items(4))

    def gradients():
        adapted.train()
        adapted.zero_grad()
        response_nll(adapted, batch)[0].sum().backward()
        return {name: p.grad.clone() for name, p in adapted.named_parameters() if p.grad is not None}

    before = gradients()
    with torch.no_grad():
        adapted.eval()
        response_nll(adapted, batch)
    after = gradients()
    assert any("layers.0." in name for name in before)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_dropout_is_on_while_training(llama):
    model = attach_lora(load_base(base_config(llama), CPU), dataclasses.replace(LORA, dropout=0.5), 0)
    try:
        assert all(m.training for m in model.modules() if isinstance(m, torch.nn.Dropout))
        assert any(isinstance(m, torch.nn.Dropout) for m in model.modules())
    finally:
        detach_lora(model)


def test_the_base_stays_where_it_is_when_lightning_puts_a_module_away():
    """After a fit Lightning calls `.cpu()`; on a GPU the evaluation would then run on the CPU, for minutes."""
    module = FineTuningModule(torch.nn.Linear(2, 2, device="meta"), ADAMW, 1, 0)
    assert module.cpu() is module
    assert next(module.model.parameters()).device.type == "meta"


def test_only_the_adapter_learns_and_is_in_a_checkpoint(adapted):
    module = FineTuningModule(adapted, ADAMW, 10, 0)
    names = set(module.state_dict())
    assert names == {name for name, p in module.named_parameters() if p.requires_grad}
    assert names and all("lora_" in name for name in names)


def test_a_new_adapter_changes_nothing_and_the_same_seed_makes_the_same(llama):
    base = load_base(base_config(llama), CPU)
    batch = collate(items(2))
    with torch.no_grad():
        untouched, _ = response_nll(base, batch)
    weights = []
    for seed in (0, 0, 1):
        model = attach_lora(base, LORA, seed)
        with torch.no_grad():
            nll, _ = response_nll(model, batch)
        assert torch.equal(nll, untouched)
        weights.append(next(p.detach().clone() for n, p in model.named_parameters() if "lora_A" in n))
        assert detach_lora(model) is base
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_adapter_begins_as_peft_begins_it(llama):
    """A as kaiming_uniform(a=√5) makes it: uniform within ±1/√in; B zero; float32, and all of them asked to learn."""
    base = load_base(base_config(llama), CPU)
    model = attach_lora(base, dataclasses.replace(LORA, r=64), seed=3)
    learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum("lora_A" in name for name in learnt) == sum("lora_B" in name for name in learnt) == 3 * 7
    for name, p in learnt.items():
        assert p.dtype is torch.float32 and p.device.type == "cpu"
        if "lora_B" in name:
            assert not p.any()
        else:
            bound = 1 / math.sqrt(p.shape[1])
            assert float(p.abs().max()) <= bound
            assert (
                float(p.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05) and abs(float(p.mean())) < 0.1 * bound
            )
    first, second = (
        learnt[f"base_model.model.model.layers.{n}.self_attn.q_proj.lora_A.default.weight"] for n in (0, 1)
    )
    assert not torch.equal(first, second)
    detach_lora(model)


def saved(model, folder) -> dict[str, bytes]:
    save_lora(model, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}


def test_an_adapter_whose_modules_served_before_is_a_fresh_one(llama, tmp_path):
    base, fresh, spare = load_base(base_config(llama), CPU), load_base(base_config(llama), CPU), SpareAdapter()
    alone = attach_lora(fresh, LORA, seed=1)
    first = spare.attach(base, LORA, 0, recompute=True)
    make_it_matter(first)
    kept, held = saved(first, tmp_path / "first"), list(first.parameters())
    spare.detach(first)
    assert sum(p.numel() for p in held if p.requires_grad) == 0
    detach_lora(load_lora(base, tmp_path / "first"))  # evaluated in between
    spare.draw_ahead(base, LORA, 1)
    again = spare.attach(base, LORA, 1)
    mine, theirs = dict(again.named_parameters()), dict(alone.named_parameters())
    assert again is first and list(mine) == list(theirs) and again.training
    assert not causal_lm(again).is_gradient_checkpointing
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert [p.requires_grad for p in mine.values()] == [p.requires_grad for p in theirs.values()]
    assert saved(again, tmp_path / "again") == saved(alone, tmp_path / "alone") != kept
    spare.detach(again)
    assert not any("lora" in name for name, _ in base.named_modules())
    other = spare.attach(base, dataclasses.replace(LORA, r=2), 1)
    assert other is not again and other.peft_config["default"].r == 2
    spare.detach(again)  # a stale one: takes off what is there, and is not taken for it
    assert saved(spare.attach(base, LORA, 1), tmp_path / "last") == saved(alone, tmp_path / "alone")


@pytest.mark.parametrize("change", ["disabled", "scaled", "hooked", "second"])
def test_modules_that_a_callback_has_changed_do_not_serve_again(llama, tmp_path, change):
    base, spare = load_base(base_config(llama), CPU), SpareAdapter()
    model = spare.attach(base, LORA, 0)
    layer = model.base_model.model.model.layers[1].mlp.down_proj
    if change == "disabled":
        model.base_model.disable_adapter_layers()
    elif change == "scaled":
        layer.set_scale("default", 3.0)
    elif change == "hooked":
        layer.lora_B["default"].register_forward_hook(lambda *parts: None)
    else:
        save_lora(model, tmp_path / "other")
        model.load_adapter(str(tmp_path / "other"), "other")
    spare.detach(model)
    assert spare.attach(base, LORA, 0) is not model


def test_an_attachment_that_fails_leaves_the_base_as_it_was(llama):
    base, spare = load_base(base_config(llama), CPU), SpareAdapter()

    def full(shapes, seed):
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        attach_lora(base, LORA, 0, recompute=True, draw=full)
    assert not any("lora" in name for name, _ in base.named_modules()) and not hasattr(base, "peft_config")
    assert not base.is_gradient_checkpointing and not base.get_input_embeddings()._forward_hooks
    assert spare.attach(base, LORA, 0).peft_config["default"].r == 4


def test_a_base_that_is_loaded_aside_is_the_base(llama):
    bases, seen, turns, usual = BaseLoader(), [], [], sys.getswitchinterval()

    def warm_up(base):
        seen.append(base)
        turns.append(sys.getswitchinterval())

    with bases.prefetch(base_config(llama), CPU, torch.float32, warm_up=warm_up) as loaded:
        pass
    base = loaded()
    assert seen == [base] and bases.load(base_config(llama), CPU) is base
    assert turns == [pytest.approx(0.0005)] and sys.getswitchinterval() == usual, (
        "threads change often while one of them loads"
    )
    with bases.prefetch(base_config(llama), CPU, torch.float32, warm_up=seen.append) as again:
        assert again() is base
    alive = weakref.ref(base)
    bases.forget()
    del base, loaded, again, seen[:]
    gc.collect()
    assert alive() is None, "a base that is let go takes no memory"


def test_each_loader_keeps_one_base_and_forgets_it_when_told(llama):
    one, other = BaseLoader(), BaseLoader()
    base = one.load(base_config(llama), CPU)
    assert one.load(base_config(llama), CPU) is base
    assert other.load(base_config(llama), CPU) is not base
    assert one.load(base_config(llama), CPU, torch.bfloat16) is not base, "another precision is another base"
    one.forget()
    assert one.load(base_config(llama), CPU) is not base


def test_a_base_that_cannot_be_loaded_aside_says_why(llama, tmp_path):
    shutil.copytree(llama, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"cut")
    with BaseLoader().prefetch(base_config(tmp_path / "broken"), CPU, torch.float32) as loaded:
        pass
    with pytest.raises(Exception, match="(?i)header|safetensors|invalid"):
        loaded()


def test_the_base_is_the_same_after_a_cell(llama):
    base = load_base(base_config(llama), CPU)
    before = {name: value.clone() for name, value in base.state_dict().items() if torch.is_tensor(value)}
    for rank in (1, 8):
        model = attach_lora(base, dataclasses.replace(LORA, r=rank), 0)
        gradients_of_one_step(model, 4, items(4))
        detach_lora(model)
    after = base.state_dict()
    assert before.keys() == {name for name, value in after.items() if torch.is_tensor(value)}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_recomputing_activations_changes_no_gradient(llama):
    base = load_base(base_config(llama), CPU)
    found = []
    for recompute in (False, True):
        model = attach_lora(base, LORA, 0, recompute)
        try:
            found.append(gradients_of_one_step(model, 4, items(8)))
            assert base.is_gradient_checkpointing is recompute
        finally:
            detach_lora(model)
    assert not base.is_gradient_checkpointing
    for name in found[0]:
        assert torch.allclose(found[0][name], found[1][name], rtol=1e-5, atol=1e-8), name


@torch.no_grad()
def test_a_dequantised_base_holds_the_same_values(llama):
    batch = collate(items(4))
    found = []
    for quantisation in (Quantisation.nf4, Quantisation.nf4_dequantised, Quantisation.none):
        base = load_base(base_config(llama, quantisation), CPU)
        found.append(response_nll(base, batch)[0])
    assert torch.allclose(found[0], found[1], atol=1e-5)
    assert not torch.allclose(found[0], found[2], atol=1e-3), "NF4 rounds; if nothing changed, nothing was quantised"


@pytest.mark.parametrize(
    ("scaling", "r", "expected"),
    [
        (Scaling.fixed_alpha, 4, 4.0),
        (Scaling.fixed_alpha, 64, 0.25),
        (Scaling.constant, 64, 2.0),
        (Scaling.rank_stabilised, 64, 2.0),
    ],
)
def test_the_effective_scale_is_the_one_recorded(llama, scaling, r, expected):
    lora = dataclasses.replace(LORA, r=r, scaling=scaling)
    assert scale(lora) == expected
    model = attach_lora(load_base(base_config(llama), CPU), lora, 0)
    try:
        layers = [m for m in model.modules() if hasattr(m, "scaling") and isinstance(m.scaling, dict) and m.scaling]
        assert layers and all(m.scaling["default"] == pytest.approx(expected) for m in layers)
    finally:
        detach_lora(model)


def test_an_adapter_comes_back_from_disk_as_it_was(adapted, llama, tmp_path):
    batch = collate(items(4))
    with torch.no_grad():
        before, _ = response_nll(adapted, batch)
    save_lora(adapted, tmp_path / "adapter")
    base = detach_lora(adapted)
    model = load_lora(base, tmp_path / "adapter")
    with torch.no_grad():
        after, _ = response_nll(model, batch)
    assert torch.equal(before, after)
    assert not list(tmp_path.glob(".*")), "nothing is left aside"


def test_an_adapter_of_another_base_is_refused_and_the_base_stays_usable(adapted, llama, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    save_lora(adapted, tmp_path / "adapter")
    base = detach_lora(adapted)
    other = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    with pytest.raises(UserError, match="does not fit the base"):
        load_lora(other, tmp_path / "adapter")
    with pytest.raises(UserError, match="No adapter at"):
        load_lora(base, tmp_path / "nowhere")
    detach_lora(attach_lora(other, LORA, 0))


def test_noise_is_scaled_by_the_examples_length_and_there_only_where_it_is_asked_for(adapted):
    batch = collate(items())
    embed = causal_lm(adapted).get_input_embeddings()
    plain = embed(batch.input_ids)
    with neftune(adapted, batch, 5.0):
        noise = embed(batch.input_ids) - plain
    lengths = torch.tensor([len(item.input_ids) for item in items() for _ in item.input_ids])
    bound = 5.0 / torch.sqrt(lengths * plain.shape[-1]).unsqueeze(-1)
    assert (noise.abs() <= bound).all()
    assert (noise.abs().amax(-1) > 0.8 * bound.squeeze(-1)).all()
    assert torch.equal(embed(batch.input_ids), plain)


@pytest.mark.parametrize("schedule", list(Schedule))
def test_the_learning_rate_warms_up_and_ends_where_it_should(schedule):
    module = FineTuningModule(torch.nn.Linear(1, 1), dataclasses.replace(ADAMW, schedule=schedule, warmup=0.1), 100, 0)
    factors = [module.lr_factor(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == pytest.approx(1.0)
    assert factors[100] == pytest.approx(0.0 if schedule is Schedule.cosine else 1.0, abs=1e-9)
    assert all(math.isfinite(f) and 0 <= f <= 1 for f in factors)


def rows_of(
    llama, folder, late: int, broken_at: int | None = None, every: int | None = 100, wait=lambda seconds: None
) -> list[dict[str, str]]:
    """metrics.csv of a real Lightning run of 6 steps with a validation after each second one, a checkpoint `every`
    steps.

    broken_at: the step whose gradient becomes infinite; wait: takes one second of a step, and two of a validation.
    """
    import csv

    import lightning as L

    class Broken(FineTuningModule):
        def on_before_optimizer_step(self, optimizer):
            if self.trainer.global_step + 1 == broken_at:
                self.trainable[0].grad[0, 0] = math.inf
            wait(1.0)
            super().on_before_optimizer_step(optimizer)

        def validation_step(self, batch, batch_idx):
            wait(2.0)
            super().validation_step(batch, batch_idx)

    tokens = items()
    plan = Plan(tokens, 4, seed=0, max_epochs=3)
    sampler = StepSampler(plan, 2)
    model = attach_lora(load_base(base_config(llama), CPU), LORA, 0)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        max_steps=6,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=True,
        default_root_dir=folder,
        accumulate_grad_batches=sampler.accumulation,
        num_sanity_val_steps=0,
        val_check_interval=4,
        check_val_every_n_epoch=None,
        use_distributed_sampler=False,
        gradient_clip_val=1.0,
        plugins=[WholeCheckpoints()],
        callbacks=[Curves(folder, plan, late=late), Checkpoints(folder, every, interval=2)],
    )
    try:
        trainer.fit(Broken(model, ADAMW, 6, 0), step_loader(tokens, sampler), whole_loader(tokens[:2], 64))
    finally:
        detach_lora(model)
        with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    return rows


@pytest.mark.parametrize("every", [1, 100])
def test_steps_that_are_read_late_are_the_same_steps(llama, tmp_path, every):
    told = {}
    for late in (0, 1):
        (tmp_path / str(late)).mkdir()
        told[late] = [
            {key: value for key, value in row.items() if key not in ("seconds", "tokens_per_second")}
            for row in rows_of(llama, tmp_path / str(late), late, every=every)
        ]
    assert told[0] == told[1] and [row["step"] for row in told[0] if row["loss"]] == list("123456")
    assert len([row for row in told[0] if row["validation_loss"]]) == 3


@pytest.mark.parametrize("late", [0, 1])
def test_a_step_whose_gradient_is_not_finite_never_reaches_a_checkpoint(llama, tmp_path, late):
    with pytest.raises(UserError, match="The gradient became inf at step 3; the last good checkpoint is kept"):
        rows_of(llama, tmp_path, late, broken_at=3, every=1)
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)
    assert kept["global_step"] == 2 and all(value.isfinite().all() for value in kept["state_dict"].values())


@pytest.mark.parametrize("late", [0, 1])
def test_a_step_is_as_fast_as_it_was_whenever_it_is_read(llama, tmp_path, monkeypatch, late):
    """Validations and checkpoints read before they begin, and their own time belongs to no step."""
    clock = [0.0]  # seconds that pass only where the run waits: a busy machine must not change them

    def wait(seconds):
        clock[0] += seconds

    save = WholeCheckpoints.save_checkpoint
    monkeypatch.setattr(WholeCheckpoints, "save_checkpoint", lambda *of, **how: (save(*of, **how), wait(4.0)))
    monkeypatch.setattr(training_module, "moment", lambda device: clock[0])
    rows = [row for row in rows_of(llama, tmp_path, late, every=1, wait=wait) if row["loss"]]
    seen = [0, *(int(row["tokens"]) for row in rows)]
    seconds = [
        (after - before) / float(row["tokens_per_second"])
        for row, before, after in zip(rows, seen, seen[1:], strict=False)
    ]
    assert seconds == pytest.approx([1.0] * 6, rel=1e-5)


def test_left_open_a_checkpoint_is_written_once_a_minute(llama, tmp_path, monkeypatch):
    rows_of(llama, tmp_path, 0, every=None)  # over in seconds
    assert not (tmp_path / "checkpoints").exists()
    monkeypatch.setattr(callbacks, "A_MINUTE", 0.0)
    rows_of(llama, tmp_path, 0, every=None)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)["global_step"] == 6


def test_a_loss_that_is_not_finite_stops_before_the_next_checkpoint(llama):
    model = attach_lora(load_base(base_config(llama), CPU), LORA, 0)
    module = FineTuningModule(model, ADAMW, 6, 0)
    detach_lora(model)
    module.pending.append(PendingStep(7, 1e-2, torch.tensor([math.nan, 3.0, 1.0]), 0.0))
    module.began = 0.0
    with pytest.raises(UserError, match="nan at step 7; the last good checkpoint is kept. Lower optimizer.lr"):
        module.read()


def test_validations_left_open_add_at_most_a_quarter_to_the_training_and_are_two_at_least():
    """A validated token is a forward pass; a learnt one has as much to do again backwards."""

    def interval(**changes):
        config = dataclasses.replace(default_config({"dataset": "squad", "model": "tiny"}), **changes)
        config = dataclasses.replace(
            config, dataset=dataclasses.replace(config.dataset, source=Source.synthetic, rows=3000)
        )
        data = DATASETS.of(config, load_tokenizer(config.model))
        data.setup()
        data.plan_steps(max_epochs=1, max_steps=None, max_tokens=None)
        return validation_interval(config, data), data

    def share(steps, data):
        validated = sum(len(tokens.input_ids) for tokens in data.encoded("validation"))
        return data.plan.total_steps // steps * validated / (2 * sum(data.plan.lengths))

    few, data = interval(sample=100, validation_sample=100)
    assert data.plan.total_steps // few == 2
    steps, data = interval(sample=1000, validation_sample=100)
    assert 3 <= data.plan.total_steps // steps <= 10 and 0.15 < share(steps, data) < 0.27
    many, data = interval(sample=1000, validation_sample=10)
    assert data.plan.total_steps // many == 10 and share(many, data) < 0.25
    asked, data = interval(sample=100, validation_sample=100, validations=7)
    assert data.plan.total_steps // asked == 6  # what is asked for is done, as nearly as whole steps allow
    stopping, data = interval(sample=100, validation_sample=100, early_stopping=3)
    assert stopping == 1  # and so is what decides when to stop
    assert interval(sample=100, validations=0)[0] is None
