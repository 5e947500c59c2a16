"""How Examples lie end to end, and which make a step: a pure function, whatever the packing, the micro-batch or the
ranks."""

import pytest
import torch

from llama_exp.data.packing import Plan, StepSampler, collate, in_parts, order, whole_loader
from llama_exp.errors import UserError
from llama_exp.records import Tokens


def tokens(*lengths: int) -> list[Tokens]:
    return [Tokens(str(n), [5 + n] * size, [-100] * (size - 2) + [5 + n] * 2) for n, size in enumerate(lengths)]


def test_examples_lie_end_to_end_and_positions_restart():
    batch = collate(tokens(3, 2, 4))
    assert batch.input_ids.tolist() == [[5, 5, 5, 6, 6, 7, 7, 7, 7]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 0, 1, 2, 3]]
    assert batch.labels.tolist() == [[-100, 5, 5, 6, 6, -100, -100, 7, 7]]
    assert batch.lengths == (3, 2, 4)
    assert not hasattr(batch, "attention_mask")


def test_the_places_that_predict_a_label_are_known_before_the_gpu_is_asked():
    items = tokens(3, 5, 4)
    batch = collate(items)
    assert batch.labels[0, batch.predicting + 1].tolist() == [5, 5, 6, 6, 7, 7]
    assert len(batch.predicting) == sum(item.label_tokens for item in items)


def test_parts_hold_every_example_once_and_no_more_than_their_size():
    items = tokens(*(3 + n * 7 % 50 for n in range(200)), 90)
    parts = list(in_parts(items, 64))
    assert [item for part in parts for item in part] == items
    assert all(len(part) == 1 or sum(len(item.input_ids) for item in part) <= 64 for part in parts)
    assert [len(item.input_ids) for item in parts[-1]] == [90], "one that is longer goes alone"


def test_a_step_is_always_the_same_examples_whatever_the_micro_batch_or_the_ranks():
    plan = Plan(tokens(*[4] * 22), batch=8, seed=3, max_epochs=2)
    assert plan.total_steps == 6
    wanted = [set(plan.step(number)) for number in range(6)]
    for micro, world in ((8, 1), (1, 1), (3, 1), (4, 2), (1, 2), (2, 3)):
        samplers = [StepSampler(plan, micro, rank, world) for rank in range(world)]
        yielded = [list(sampler) for sampler in samplers]
        assert len({len(of_rank) for of_rank in yielded}) == 1, "every rank yields equally many micro-batches"
        assert len(yielded[0]) == len(samplers[0])
        each = samplers[0].accumulation
        for number in range(6):
            seen = [
                place
                for of_rank in yielded
                for micros in of_rank[number * each : (number + 1) * each]
                for place in micros
            ]
            assert len(seen) == len(set(seen))
            assert set(seen) == wanted[number]


def test_an_epoch_holds_each_example_once_and_epochs_differ():
    plan = Plan(tokens(*[4] * 22), batch=8, seed=3, max_epochs=2)
    first, second = ([place for number in range(e * 3, e * 3 + 3) for place in plan.step(number)] for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(22))
    assert first != second
    assert order(22, 3, 0) == order(22, 3, 0) != order(22, 4, 0)


def test_a_sampler_continues_with_the_batch_it_would_have_yielded():
    plan = Plan(tokens(*[4] * 22), batch=8, seed=3, max_epochs=2)
    whole = list(StepSampler(plan, 3))
    for start in range(len(whole)):
        sampler = StepSampler(plan, 3)
        sampler.start = lambda start=start: start
        assert list(sampler) == whole[start:]


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ({"max_epochs": 3}, 9),
        ({"max_epochs": None, "max_steps": 7}, 7),
        ({"max_epochs": 3, "max_steps": 7}, 7),
        ({"max_epochs": -1, "max_tokens": 22 * 4}, 3),
        ({"max_epochs": None, "max_tokens": 22 * 4 + 1}, 4),
        ({"max_epochs": None, "max_tokens": 1}, 1),
    ],
)
def test_the_first_budget_to_be_spent_ends_the_run(budget, steps):
    assert Plan(tokens(*[4] * 22), batch=8, seed=0, **budget).total_steps == steps


def test_tokens_seen_are_those_of_the_examples():
    plan = Plan(tokens(*range(2, 24)), batch=8, seed=0, max_epochs=2)
    by_hand = [sum(plan.lengths[place] for place in plan.step(number)) for number in range(6)]
    assert [plan.seen(n, plan.lengths) for n in range(7)] == [sum(by_hand[:n]) for n in range(7)]
    assert plan.seen(6, plan.labels) == 2 * 22 * 2


def test_nothing_to_train_on_is_a_problem():
    with pytest.raises(UserError, match="dropped for their length"):
        Plan([], batch=8, seed=0)


def test_validation_sees_every_example_once_on_any_number_of_ranks():
    items = tokens(*(3 + n * 5 % 30 for n in range(40)))
    for world in (1, 2, 3):
        batches = [batch for rank in range(world) for batch in whole_loader(items, 64, rank, world)]
        learned = sum(int((batch.labels != -100).sum()) for batch in batches)
        assert learned == sum(item.label_tokens for item in items)


def test_an_empty_share_is_a_row_without_a_label():
    [batch] = list(whole_loader(tokens(4), 64, rank=1, world_size=2))
    assert int((batch.labels != -100).sum()) == 0
    assert batch.input_ids.dtype == torch.long
