"""One reply as it comes: the words of transformers' `generate`, greedy and drawn; it stops where its reader does."""

import contextlib
import math
import random
import signal

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llama_exp.config.compose import load_config
from llama_exp.data.chat_format import chat_format
from llama_exp.errors import UserError
from llama_exp.evaluation import generation
from llama_exp.evaluation.generation import Reply, answers, generate, stream
from llama_exp.evaluation.sampling import check_sampling
from llama_exp.model.adapters import SharedBase
from llama_exp.model.kernels import projection
from llama_exp.model.kernels.batch_decode import DecodeStep, decode_one
from llama_exp.model.kernels.next_token import chooser
from llama_exp.model.lora import causal_lm
from llama_exp.stopping import interrupted_at_end

from .test_training_module import adapted  # noqa: F401 (adapted is a fixture)

NEVER = -1  # an EOS that does not come


def prompt(length: int = 20) -> list[int]:
    draw = random.Random(length)
    return [1, *(draw.randrange(3, 250) for _ in range(length - 1))]


def theirs(llama, ids: list[int], new: int, **settings) -> list[int]:
    """What transformers generates; the model's own EOS is switched off."""
    llama.generation_config.eos_token_id = None
    whole = torch.tensor([ids])
    out = llama.generate(whole, attention_mask=torch.ones_like(whole), max_new_tokens=new, pad_token_id=0, **settings)
    return out[0, len(ids) :].tolist()


def ours(llama, ids: list[int], new: int, eos: int = NEVER, **sampling: float) -> list[int]:
    return list(decode_one(llama, ids, new=new, eos=eos, choose=chooser(**sampling)))


@pytest.mark.parametrize("length", [5, 450])
def test_a_greedy_reply_is_that_of_transformers(adapted, length):  # noqa: F811 (its heads are grouped)
    llama = causal_lm(adapted).eval()
    assert ours(llama, prompt(length), 30) == theirs(llama, prompt(length), 30, do_sample=False)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (3.0, 0.5)])
def test_with_the_same_seed_the_words_drawn_are_those_of_transformers(adapted, temperature, top_p):  # noqa: F811
    llama = causal_lm(adapted).eval()
    drawn = []
    for seed in range(3):
        torch.manual_seed(seed)
        drawn.append(ours(llama, prompt(), 30, temperature=temperature, top_p=top_p))
        torch.manual_seed(seed)
        settings = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        assert drawn[-1] == theirs(llama, prompt(), 30, **settings)
    assert len(set(map(tuple, drawn))) == 3, "another seed, other words"


def test_drawing_stays_within_top_p_and_a_temperature_near_0_is_greedy():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]]).log()
    torch.manual_seed(0)
    found = torch.stack([chooser(1.0, 0.75)(logits) for _ in range(200)])
    assert [set(column.tolist()) for column in found.T] == [{0, 1}, {1, 2, 3}]
    assert chooser(1e-30)(1e9 * logits).tolist() == chooser(0.0)(logits).tolist() == [0, 3]


def test_half_of_a_batch_that_is_drawn_may_end(adapted, tokenizer):  # noqa: F811
    """Drawn replies end at different places; with one seed they are the same again."""
    prompts, settings = [prompt(n) for n in range(5, 25)], {"max_new_tokens": 40, "batch": 20, "temperature": 3.0}

    def drawn() -> list[Reply]:
        torch.manual_seed(0)
        return [reply for some in generate(adapted, tokenizer, prompts, **settings) for reply in some]

    first = drawn()
    assert sorted(reply.index for reply in first) == list(range(20)) and first == drawn()


def test_the_pieces_joined_are_the_reply_that_a_batch_has(adapted, tokenizer):  # noqa: F811
    for length in (5, 30):
        *pieces, reply = stream(adapted, tokenizer, prompt(length), max_new_tokens=24)
        [[answer]] = answers(adapted, tokenizer, [prompt(length)], [None], max_new_tokens=24)
        assert "".join(pieces) == reply.text and reply == answer and reply.tokens == 24


def test_half_a_character_and_trailing_blanks_wait_for_what_follows(tokenizer):
    text = "  ein Ünï-\u00e7\u00f8d\u00e9 \u2603  and\n\n more  "
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = generation.Pieces(tokenizer)
    found = [pieces.add(token) for token in ids] + [pieces.rest()]
    assert "".join(found) == text.strip() and "" in found and "\ufffd" not in "".join(found)


@pytest.mark.parametrize("new", [0, 1, 2])
def test_a_short_limit_is_kept(adapted, tokenizer, new):  # noqa: F811
    *pieces, reply = stream(adapted, tokenizer, prompt(), max_new_tokens=new)
    assert (reply.tokens, reply.finished, reply.text) == (new, False, "".join(pieces))


def test_a_reply_that_begins_with_its_end_is_empty(adapted, tokenizer):  # noqa: F811
    llama, end = causal_lm(adapted).eval(), chat_format(tokenizer).end
    [first] = ours(llama, prompt(), 1)
    rows = llama.lm_head.weight.data
    rows[[first, end]] = rows[[end, first]]  # now the model ends where it would have said this token
    *pieces, reply = stream(adapted, tokenizer, prompt(), max_new_tokens=9)
    assert ("".join(pieces), reply) == ("", Reply(0, "", True, 1)), "EOS is the one token"
    assert ours(llama, prompt(), 9, eos=end) == [end]


def test_a_closed_stream_stops_the_model_at_its_next_token(adapted, tokenizer, monkeypatch):  # noqa: F811
    steps, run = [], DecodeStep.run
    monkeypatch.setattr(DecodeStep, "run", lambda self, left: (steps.append(left), run(self, left)))
    with contextlib.closing(stream(adapted, tokenizer, prompt(), max_new_tokens=200)) as pieces:
        assert [type(next(pieces)) for _ in range(3)] == [str] * 3
    assert steps == [199, 198]


def test_inference_mode_ends_at_each_piece(adapted, tokenizer):  # noqa: F811
    with contextlib.closing(stream(adapted, tokenizer, prompt(), max_new_tokens=20)) as pieces:
        for _ in range(3):
            next(pieces)
            assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_every_head_with_its_own_keys_in_16_bits(tmp_path, tokenizer):
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=4, **shape)).bfloat16().eval()
    tokens = ours(llama, prompt(), 12, temperature=1.0)
    assert len(tokens) == 12 and all(0 <= token < len(tokenizer) for token in tokens)


def test_dequantised_weights_stay_from_reply_to_reply_until_another_use(llama, tokenizer):
    config = load_config("model=custom", f"model.path={llama}", "model.quantisation=nf4", "max_length=256")
    base = SharedBase(config, {"accelerator": "cpu"})

    def kept() -> set[int]:
        return {id(layer.cached_weight) for layer in base.model.modules() if hasattr(layer, "cached_weight")}

    with base.use(None, keep_weights=True) as model:
        *_, first = stream(model, tokenizer, prompt(), max_new_tokens=8)
    before = kept()
    with base.use(None, keep_weights=True):
        assert kept() == before and len(before) == 6 * 3
    with base.use(None) as model:
        assert not kept()
        *_, again = stream(model, tokenizer, prompt(), max_new_tokens=8)
    assert first == again
    with base.use(None, keep_weights=True):
        pass
    base.release_weights()
    assert not kept()


def test_weights_that_are_read_in_4_bits_are_not_kept_beside_them(llama, monkeypatch):
    config = load_config("model=custom", f"model.path={llama}", "model.quantisation=nf4", "max_length=256")
    base = SharedBase(config, {"accelerator": "cpu"})
    monkeypatch.setattr(projection, "_nf4_kernels", lambda weight, dtype: hasattr(weight, "quant_state") or None)
    with base.use(None, keep_weights=True) as model:
        assert projection.reads_4_bits(model)
        assert not any(hasattr(layer, "cached_weight") for layer in model.modules())
    whole = load_config("model=custom", f"model.path={llama}", "model.quantisation=none", "max_length=256")
    assert not projection.reads_4_bits(SharedBase(whole, {"accelerator": "cpu"}).model)


def test_ctrl_c_waits_for_the_end_of_a_block_and_a_second_one_does_not():
    before, reached = signal.getsignal(signal.SIGINT), False
    with contextlib.suppress(KeyboardInterrupt):
        with interrupted_at_end():
            signal.raise_signal(signal.SIGINT)
            reached = True
        reached = False
    assert reached and signal.getsignal(signal.SIGINT) is before
    with contextlib.suppress(KeyboardInterrupt), interrupted_at_end():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        reached = False
    assert reached and signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"temperature": math.nan}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_what_nothing_can_be_drawn_by_is_refused(wrong):
    with pytest.raises(UserError, match="wanted"):
        check_sampling(**{"temperature": 1.0, "top_p": 1.0, **wrong})
