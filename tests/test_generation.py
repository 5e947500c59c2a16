"""Replies with shared prefixes computed once equal those of transformers' `generate`; so do the likelihoods."""

import random
from collections import Counter

import pytest
import torch

from llama_exp.model.base import load_base
from llama_exp.model.kernels import batch_decode
from llama_exp.model.kernels.batch_decode import decode_batches
from llama_exp.model.kernels.batches import DecodeRequest, group_by_prefix, make_batches
from llama_exp.model.kernels.prefill import KVCache
from llama_exp.model.lora import attach_lora, causal_lm, detach_lora

from .test_training_module import CPU, LORA, adapted, base_config  # noqa: F401 (adapted is a fixture)

EOS = 2


def prompts(contexts: int = 5) -> list[tuple[int, ...]]:
    """Prompts as SQuAD's are: the same first words, several questions of a context; some that share nothing else."""
    draw = random.Random(0)

    def some(count):
        return tuple(draw.randrange(3, 250) for _ in range(count))

    opening, made = (1, *some(4)), []
    for _ in range(contexts):
        context = opening + some(draw.randrange(20, 40))
        made += [context + some(draw.randrange(3, 9)) for _ in range(draw.randrange(1, 5))]
    made.append(made[0])  # the same question twice
    made.append(made[0] + some(4))  # one prompt is the beginning of another
    draw.shuffle(made)
    return made


def asked(made, response=()) -> list[DecodeRequest]:
    return [DecodeRequest(place, prompt, tuple(response)) for place, prompt in enumerate(made)]


def replies(llama, made, new, count=100, response=()):
    batches = make_batches(asked(made, response), new, count, 1e9)
    return {one.index: one for found in decode_batches(llama, batches, new=new, eos=EOS) for one in found}


def theirs(llama, prompt, new) -> list[int]:
    ids = torch.tensor([prompt])
    out = llama.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, eos_token_id=EOS, pad_token_id=0
    )[0, len(prompt) :].tolist()
    return out[: out.index(EOS) + 1] if EOS in out else out


@pytest.mark.parametrize("count", [1, 3, 100])
def test_replies_are_those_of_transformers(adapted, count):  # noqa: F811
    llama, made = causal_lm(adapted).eval(), prompts()
    found = replies(llama, made, new=12, count=count)
    assert sorted(found) == list(range(len(made)))
    assert {place: one.ids for place, one in found.items()} == {n: theirs(llama, p, 12) for n, p in enumerate(made)}


def test_replies_that_end_at_different_places_are_those_of_transformers(tokenizer, monkeypatch):
    """Rows leave the batch once half of them have ended."""
    from llama_exp.config.compose import default_config
    from llama_exp.data import DATASETS
    from llama_exp.data.encoding import encode_prompts

    config = default_config({"dataset": "squad", "model": "tiny", "experiment": "quickstart"})
    data = DATASETS.of(config, tokenizer)
    data.setup()
    texts, _ = encode_prompts(data.test[:40], tokenizer, 400)
    llama = load_base(config.model, CPU)
    whole = {place: theirs(llama, prompt, 24) for place, prompt in enumerate(texts)}
    of_each = Counter(token for ids in whole.values() for token in set(ids[:12]))
    eos = min(of_each, key=lambda token: (abs(of_each[token] - 30), token))  # ends about three quarters of the replies
    left = []
    select = KVCache.select
    monkeypatch.setattr(KVCache, "select", lambda self, rows: (left.append(len(rows)), select(self, rows)))
    batches = make_batches(asked(map(tuple, texts)), 24, 100, 1e9)
    found = decode_batches(llama, batches, new=24, eos=eos)
    assert {one.index: one.ids for some in found for one in some} == {
        place: ids[: ids.index(eos) + 1] if eos in ids else ids for place, ids in whole.items()
    }
    assert left and 0 < left[0] <= 20


def test_likelihoods_come_from_the_same_pass(adapted):  # noqa: F811
    from llama_exp.evaluation.generation import likelihood
    from llama_exp.records import Tokens

    llama, made, response = causal_lm(adapted).eval(), prompts(), (7, 8, 9, EOS)
    found = replies(llama, made, new=3, response=response)
    tokens = [Tokens(str(n), [*p, *response], [-100] * len(p) + list(response)) for n, p in enumerate(made)]
    expected = likelihood(adapted, tokens)
    for place, one in found.items():
        assert one.nll == pytest.approx(expected[str(place)][0], abs=1e-4)
    without = replies(llama, made, new=3)
    assert {one.nll for one in without.values()} == {None}
    assert {p: one.ids for p, one in found.items()} == {p: one.ids for p, one in without.items()}


def test_what_prompts_share_is_computed_once(adapted):  # noqa: F811
    llama, made = causal_lm(adapted).eval(), prompts()
    counted = []
    hook = llama.get_input_embeddings().register_forward_hook(lambda _m, inputs, _o: counted.append(inputs[0].numel()))
    replies(llama, made, new=1)
    hook.remove()
    assert len(counted) == 2, "one pass over what is shared, one over the rest"
    assert sum(counted) < 0.6 * sum(map(len, made))


def test_families_share_a_beginning_and_no_more():
    for family in group_by_prefix(asked(prompts())):
        beginnings = {one.prompt[: family.shared] for one in family.members}
        assert len(beginnings) == 1
        assert all(len(one.prompt) > family.shared for one in family.members)
        assert (family.shared > 0) == (len(family.members) > 1)
    assert [f.shared for f in group_by_prefix(asked([(1, 2, 3, 4), (1, 9, 9, 9)]))] == [0, 0], (
        "an opening is not a family"
    )


def test_batches_hold_every_prompt_once_within_their_bounds():
    made = prompts(12)
    found = list(make_batches(asked(made), 8, 6, 250))
    assert sorted(one.index for batch in found for family in batch for one in family.members) == list(range(len(made)))
    for batch in found:
        members = [one for family in batch for one in family.members]
        assert len(members) <= 6
        assert len(members) == 1 or len(members) * (8 + max(len(one.prompt) for one in members)) <= 250


def test_memory_does_not_grow_over_batches(adapted):  # noqa: F811
    import gc

    llama, made = causal_lm(adapted).eval(), prompts()

    def tensors():
        gc.collect()
        return sum(torch.is_tensor(thing) for thing in gc.get_objects())

    replies(llama, made, new=3, count=3)
    before = tensors()
    for _ in range(3):
        replies(llama, made, new=3, count=3)
    assert tensors() <= before + 2


def test_an_adapter_that_was_taken_off_is_not_seen(llama):
    base = load_base(base_config(llama), CPU)
    made = prompts()
    before = {place: one.ids for place, one in replies(base, made, new=6).items()}
    detach_lora(attach_lora(base, LORA, 0))
    assert {place: one.ids for place, one in replies(base, made, new=6).items()} == before


@pytest.mark.parametrize("new", [0, 3])
def test_the_cache_holds_prompts_and_new_tokens_but_no_long_responses(adapted, monkeypatch, new):  # noqa: F811
    """What fits in memory is reckoned with prompts and new tokens alone."""
    llama, made, sizes = causal_lm(adapted).eval(), prompts(), []
    fill = KVCache.fill
    monkeypatch.setattr(
        KVCache, "fill", lambda self, layer, k, v: (fill(self, layer, k, v), sizes.append(self.keys[layer].shape[:2]))
    )
    response = tuple(range(3, 90))
    found = replies(llama, made, new, count=4, response=response)
    short = replies(llama, made, new, count=4)
    assert {place: one.ids for place, one in found.items()} == {place: one.ids for place, one in short.items()}
    assert all(rows <= 4 and width <= new + max(map(len, made)) for rows, width in sizes)
    assert bool(sizes) == (new > 0), "who generates nothing needs no cache"


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_that_are_there_are_not_lost_where_the_next_one_fails(adapted, monkeypatch, ahead):  # noqa: F811
    llama, launch, launched = causal_lm(adapted).eval(), batch_decode.launch_batch, []
    batches = list(make_batches(asked(prompts()), 3, 4, 1e9))

    def third_fails(llama, batch, *others):
        launched.append(batch)
        if len(launched) == 3:
            raise torch.OutOfMemoryError("no more")
        return launch(llama, batch, *others)

    monkeypatch.setattr(batch_decode, "launch_batch", third_fails)
    monkeypatch.setattr(batch_decode, "can_run_ahead", lambda llama: ahead)
    order = []
    with pytest.raises(torch.OutOfMemoryError, match="no more"):
        for found in decode_batches(llama, batches, new=3, eos=EOS):
            order.append((len(launched), {one.index for one in found}))
    indices = [{request.index for group in batch for request in group.members} for batch in batches]
    assert len(batches) > 3 and [read for _, read in order] == indices[:2]
    assert [count for count, _ in order] == ([2, 3] if ahead else [1, 2])


def test_running_ahead_gives_the_same_replies(adapted, monkeypatch):  # noqa: F811
    llama, found = causal_lm(adapted).eval(), []
    for ahead in (False, True):
        monkeypatch.setattr(batch_decode, "can_run_ahead", lambda llama, ahead=ahead: ahead)
        found.append(replies(llama, prompts(), new=6, count=3, response=(7, 8, EOS)))
    assert found[0] == found[1] and len(found[0]) == len(prompts())
