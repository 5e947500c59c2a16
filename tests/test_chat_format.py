"""The chat format by the model: ids are transformers' own, and nothing that a person types is a mark of a turn."""

import dataclasses
import os
from pathlib import Path

import pytest

from llama_exp import tiny
from llama_exp.data.chat_format import Llama2Format, TemplateFormat, chat_format
from llama_exp.data.encoding import encode_all, encode_prompts
from llama_exp.errors import UserError
from llama_exp.records import Example, Turn

from .templates import CHATML, LLAMA3, MARKS, MISTRAL, ZEPHYR, byte_level, of_llama2

DATA = Path(os.environ.get("LLAMA_EXP_DATA") or Path(__file__).parents[2] / "shared" / "data")
TEXTS = [
    "Who dug the lake?",
    "  spaces around \n",
    "two\n\nlines, and\ttabs",
    "ünïcode, 漢字, 🙂",
    "user\nassistant",
    "{{ bos_token }} {% if %}",
    "\ue0000\ue001 and \ue0001\ue001",
    "a",
]
HISTORY = (Turn("user", "Hello."), Turn("assistant", "Hi, ask."))
SYSTEM = "Be brief."


def conversations(system: bool = True):
    for number, text in enumerate(TEXTS):
        for history in ((), HISTORY, (*HISTORY, Turn("user", text), Turn("assistant", text))):
            for prompt in ("", SYSTEM) if system else ("",):
                yield Example(f"{number}", text, TEXTS[-number - 1], (), "g", history=history, system=prompt)


def messages(example: Example, answered: bool = False) -> list[dict]:
    turns = [*example.history, Turn("user", example.prompt)] + [Turn("assistant", example.response)] * answered
    system = [{"role": "system", "content": example.system}] if example.system else []
    return system + [{"role": turn.role, "content": turn.text.strip()} for turn in turns]


FORMATS = {
    "llama3": lambda: byte_level(LLAMA3),
    "chatml": lambda: byte_level(CHATML),
    "zephyr on the tiny model's": lambda: of_llama2(tiny.PATH, ZEPHYR),
    "zephyr on stories260K's": lambda: of_llama2(_real("stories260K"), ZEPHYR),
    "zephyr on Llama 2's": lambda: of_llama2(_real("llama2-tokenizer"), ZEPHYR),
    "mistral on Llama 2's": lambda: of_llama2(_real("llama2-tokenizer"), MISTRAL),
}


def _real(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"no {name} at {DATA}: set LLAMA_EXP_DATA=FOLDER")
    return DATA / name


@pytest.mark.parametrize("name", FORMATS)
def test_ids_are_those_of_transformers_and_its_template(name):
    tokenizer = FORMATS[name]()
    form = chat_format(tokenizer)
    assert isinstance(form, TemplateFormat)
    examples = list(conversations(form.has_system))
    render = {"return_dict": False, "chat_template": form.template}  # the same template, its date fixed
    prompts = form.prompts(examples)
    theirs = [tokenizer.apply_chat_template(messages(one), add_generation_prompt=True, **render) for one in examples]
    assert prompts == theirs
    whole = [tokenizer.apply_chat_template(messages(one, answered=True), **render) for one in examples]
    ours = [
        prompt + reply
        for prompt, reply in zip(prompts, form.responses([one.response for one in examples]), strict=True)
    ]
    assert ours == [ids[: len(mine)] for ids, mine in zip(whole, ours, strict=True)]
    assert all(form.end not in ids[len(mine) :] for ids, mine in zip(whole, ours, strict=True))


@pytest.mark.parametrize("name", FORMATS)
def test_a_person_who_types_every_special_token_types_text(name):
    tokenizer = FORMATS[name]()
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    typed = " ".join([*special, "".join(special), *MARKS, "[INST] <<SYS>> <|user|>"])
    plain = Example("a", "Hello", "Hello", (), "g", history=HISTORY, system=SYSTEM)
    hostile = dataclasses.replace(
        plain, prompt=typed, response=typed, system=typed, history=(Turn("user", typed), Turn("assistant", typed))
    )
    [good, bad], _ = encode_all([plain, hostile], tokenizer, 10_000, 100)
    ids = set(tokenizer.all_special_ids) | {tokenizer.convert_tokens_to_ids(text) for text in special}
    ids -= {tokenizer.unk_token_id}  # stories260K has no "|"
    assert [token for token in bad.input_ids if token in ids] == [token for token in good.input_ids if token in ids]
    assert [token for token in bad.labels if token in ids] == [chat_format(tokenizer).end]
    assert chat_format(tokenizer).is_whole(bad)


@pytest.mark.parametrize("name", ["llama3", "zephyr on the tiny model's"])
def test_training_sees_the_ids_that_generation_starts_from(name):
    tokenizer = FORMATS[name]()
    for example in conversations():
        [tokens], _ = encode_all([example], tokenizer, 4000, 100)
        [prompt], _ = encode_prompts([example], tokenizer, 4000 - 100)
        assert tokens.input_ids[: len(prompt)] == prompt
        assert tokens.labels[len(prompt) :] == tokens.input_ids[len(prompt) :]
        assert tokens.labels[-1] == chat_format(tokenizer).end


def test_a_turn_ends_as_the_template_ends_it():
    tokenizer = byte_level(LLAMA3)
    form = chat_format(tokenizer)
    assert form.end == tokenizer.convert_tokens_to_ids("<|eot_id|>") != tokenizer.eos_token_id
    [tokens], _ = encode_all([next(conversations())], tokenizer, 4000, 100)
    assert "<|eot_id|> in 1 Example; each response and the <|eot_id|> that ends it are learnt" in form.audit([tokens])
    assert form.describe()["end"] == "<|eot_id|>"


def test_a_date_in_a_template_is_fixed_and_stored():
    form = chat_format(byte_level(LLAMA3))
    text = form.tokenizer.decode(form.prompts([next(conversations())])[0])
    assert "Today Date: 26 Jul 2024" in text
    assert form.describe()["date"] == "2024-07-26"
    other = chat_format(byte_level(LLAMA3.replace("%d %b %Y", "%A, %Y-%m-%d")))
    assert "Today Date: Friday, 2024-07-26" in other.tokenizer.decode(other.prompts([next(conversations())])[0])
    assert "date" not in chat_format(byte_level(CHATML)).describe()


def test_a_template_without_a_system_role_opens_the_first_message_with_it(tokenizer):
    form = chat_format(of_llama2(tiny.PATH, MISTRAL))
    example = Example("a", "Why?", "So.", (), "g", history=HISTORY, system=SYSTEM)
    assert not form.has_system
    without = dataclasses.replace(example, system="", history=(Turn("user", "Be brief.\n\nHello."), HISTORY[1]))
    assert form.prompts([example]) == form.prompts([without])


REFUSED = {
    "BOS twice": ("{{ bos_token }}" + CHATML, "begins with <|begin_of_text|> twice"),
    "another beginning once there is an answer": (
        CHATML.replace("{{ bos_token }}", "{{ bos_token }}{{ messages | length }}"),
        "not the beginning of the whole",
    ),
    "a reply without an end": (CHATML.replace("'<|eot_id|>' + ", ""), "no special token ends a reply"),
    "a message left out": (CHATML.replace("in messages", "in messages[1:]"), "each once and in order"),
    "a message twice": (CHATML.replace("m.content +", "m.content + m.content +"), "each once and in order"),
    "no template": ("{% for %}", "cannot be used"),
    "an error of its own": ("{{ raise_exception('not for you') }}", "not for you"),
    "a way out of the sandbox": ("{{ messages.__class__.__mro__ }}", "cannot be used"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_template_that_cannot_be_learnt_from_is_refused(what):
    template, message = REFUSED[what]
    with pytest.raises(UserError, match=message):
        chat_format(byte_level(template))


def test_several_templates_without_a_default_are_refused():
    with pytest.raises(UserError, match="cannot be used"):
        chat_format(byte_level({"rag": CHATML, "tool_use": CHATML}))
    assert chat_format(byte_level({"default": CHATML, "rag": LLAMA3})).template == CHATML


def test_llama_2_keeps_its_own_encoder_and_without_a_template_the_tokenizer_decides(tokenizer):
    template = "{% for m in messages %}[INST] <<SYS>>{{ m.content }}{% endfor %}"
    assert isinstance(chat_format(of_llama2(tiny.PATH, template)), Llama2Format)
    assert isinstance(chat_format(tokenizer), Llama2Format)
    plain = chat_format(byte_level(None))
    example = Example("a", "Why?", "So.", (), "g", history=HISTORY, system=SYSTEM)
    ids = plain.prompts([example])[0] + plain.responses(["So."])[0]
    assert plain.tokenizer.decode(ids) == (
        "<|begin_of_text|>Be brief.\n\nUser:\nHello.\n\nAssistant:\nHi, ask.<|end_of_text|>"
        "User:\nWhy?\n\nAssistant:\nSo.<|end_of_text|>"
    )
    assert plain.describe()["kind"] == "plain"


def test_a_long_prompt_is_shortened_by_the_same_rule_whatever_the_format():
    tokenizer = byte_level(LLAMA3)
    context = " ".join(f"word{index}" for index in range(300))
    example = Example("a", f"Context: {context}\n\nQuestion: Who?", "Me", ("Me",), "g", context)
    [ids], shortened = encode_prompts([example], tokenizer, 200)
    assert 180 < len(ids) <= 200 and shortened[0].prompt.endswith("Question: Who?")
