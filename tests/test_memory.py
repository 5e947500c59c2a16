"""What a step keeps in memory follows from the model's shape and the free memory, and never changes the result."""

from types import SimpleNamespace

import pytest
import torch

from llama_exp.config.compose import default_config
from llama_exp.data.packing import Plan
from llama_exp.model.memory import fit, needs
from llama_exp.records import Tokens

GIB = 2**30
LLAMA_7B = SimpleNamespace(
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    vocab_size=32000,
)


def plan(examples: int, length: int, batch: int) -> Plan:
    return Plan([Tokens(str(n), [1] * length, [1] * length) for n in range(examples)], batch, seed=0)


def chosen(room_gib: float, length=2048, batch=8, micro_batch=None, recompute=None):
    config = default_config({"dataset": "squad", "model": "llama2_7b"})
    config.batch, config.micro_batch, config.model.gradient_checkpointing = batch, micro_batch, recompute
    return fit(
        needs(LLAMA_7B, config, 2, fused=True),
        room_gib * GIB,
        plan(32, length, batch),
        config,
        batch,
        1,
        room_gib * GIB,
    )


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (120, (False, 8, True)),  # everything fits, and the dequantised weights beside it
        (50, (False, 8, False)),
        (30, (False, 4, False)),  # half the step at a time before anything is computed twice
        (4.4, (True, 4, False)),
        (3.0, (True, 2, False)),
    ],
)
def test_the_fastest_way_that_fits_is_taken(room, expected):
    found = chosen(room)
    assert (found.recompute, found.micro_batch, found.cache_weights) == expected


def test_few_tokens_at_a_time_are_worse_than_recomputing():
    assert chosen(2.0, length=300, batch=16).recompute


def test_what_is_asked_for_is_obeyed_and_what_may_not_fit_is_said():
    assert chosen(120, recompute=True).recompute
    assert chosen(120, micro_batch=2).micro_batch == 2
    tight = chosen(1.0, recompute=False)
    assert (tight.recompute, tight.micro_batch) == (False, 1) and "may need" in tight.why


def test_the_needs_are_those_that_were_measured():
    """One H200, 2026-11-24: a step of 8 x 2,048 tokens peaked at 51.46 GiB, 3.76 of them the base and the adapter."""
    config = default_config({"dataset": "squad", "model": "llama2_7b"})
    need = needs(LLAMA_7B, config, 2, fused=True)
    assert need.keeping(16384) / GIB == pytest.approx(51.46 - 3.76 + 0.15, rel=0.03)  # 0.15: the adapter itself
    assert need.dequantised == pytest.approx(2 * (6_738_415_616 - 2 * 32000 * 4096 - 65 * 4096), rel=1e-6)


def test_the_heaviest_micro_batch_of_a_run_is_found():
    lengths = [5 + n * 7 % 40 for n in range(22)]
    made = Plan([Tokens(str(n), [1] * size, [1] * size) for n, size in enumerate(lengths)], 8, seed=3, max_epochs=2)
    by_hand = max(sum(lengths[p] for p in made.step(n)[i : i + 4]) for n in range(6) for i in (0, 4))
    assert made.tokens_of(made.heaviest(4)) == by_hand
    assert made.tokens_of(made.heaviest(8, 2)) == max(
        sum(lengths[p] for p in made.step(n)[r::2]) for n in range(6) for r in (0, 1)
    )


def test_dequantised_weights_are_held_only_meanwhile(llama):
    from llama_exp.model.base import load_base
    from llama_exp.model.kernels.decoder_layer import keep_in_memory

    from .test_training_module import CPU, base_config

    base = load_base(base_config(llama), CPU)
    layers = [m for m in base.modules() if isinstance(m, torch.nn.Linear)]
    with keep_in_memory(base):
        assert sum(hasattr(layer, "cached_weight") for layer in layers) == 6 * 3
        assert set(base.state_dict()) == set(load_base(base_config(llama), CPU).state_dict())
    assert not any(hasattr(layer, "cached_weight") for layer in layers)
