"""All rows of the real datasets, where a copy is at hand: LLAMA_EXP_DATA=FOLDER, else ../shared/data."""

import dataclasses
import os
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from llama_exp.config.compose import default_config
from llama_exp.data import DATASETS
from llama_exp.data.encoding import encode_all, encode_prompts
from llama_exp.data.synthetic import MAKERS
from llama_exp.model.tokenizer import load_tokenizer

FOLDER = Path(os.environ.get("LLAMA_EXP_DATA") or Path(__file__).parents[2] / "shared" / "data")
PLACES = {
    "squad": "squad",
    "guanaco": "guanaco-llama2-1k",
    "tweetsumm": "tweetsumm",
    "medical": "medquad",
    "pubmedqa": "pubmedqa",
}
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no real data at {FOLDER}: set LLAMA_EXP_DATA=FOLDER")

COUNTS = {
    "squad": {
        "rows": {"train": 11_877, "test": 10_570},
        "dropped": {"train": {}, "test": {}},
        "cleaning": {},
        "examples": {"train": 11_331, "validation": 546, "test": 10_570},
    },
    "guanaco": {
        "rows": {"train": 1_000},
        "dropped": {"train": {"empty message or answer in the conversation": 5}},
        "cleaning": {},
        "examples": {"train": 1_168, "validation": 69, "test": 138},
    },
    "tweetsumm": {
        "rows": {"train": 879, "validation": 110, "test": 110},
        "dropped": {"train": {}, "validation": {}, "test": {}},
        "cleaning": {
            "html_entities": {"rows": 284, "characters": 2_100},
            "control_characters": {"rows": 5, "characters": 6},
            "signatures": {"rows": 727, "characters": 13_387},
            "urls": {"rows": 737, "characters": 35_851},
            "handles": {"rows": 1_099, "characters": 104_906},
            "whitespace": {"rows": 1_099, "characters": 13_778},
            "duplicates": {"rows": 0, "characters": 0},
        },
        "examples": {"train": 879, "validation": 110, "test": 110},
    },
    "medical": {
        "rows": {"train": 16_407},
        "dropped": {"train": {}},
        "cleaning": {
            "html_entities": {"rows": 0, "characters": 0},
            "control_characters": {"rows": 0, "characters": 0},
            "whitespace": {"rows": 7_997, "characters": 572_693},
            "duplicates": {"rows": 48, "characters": 166_898},
        },
        "examples": {"train": 13_905, "validation": 818, "test": 1_636},
    },
    "pubmedqa": {
        "rows": {"train": 1_000},
        "dropped": {"train": {}},
        "cleaning": {
            "html_entities": {"rows": 0, "characters": 0},
            "control_characters": {"rows": 0, "characters": 0},
            "whitespace": {"rows": 107, "characters": 12},
            "duplicates": {"rows": 0, "characters": 0},
        },
        "examples": {"train": 600, "validation": 100, "test": 300},
    },
}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@cache
def real(name, **changes):
    changes = {"path": str(FOLDER / PLACES[name]), **changes}
    data = DATASETS[name](dataclasses.replace(default_config({"dataset": name}).dataset, **changes))
    data.setup()
    return data


def everything(name):
    data = real(name)
    return data.available + data.validation + data.test


def test_every_dataset_has_real_rows():
    assert set(PLACES) == set(COUNTS) == set(MAKERS)


@pytest.mark.parametrize("name", PLACES)
def test_every_row_is_read_cleaned_and_split_as_counted(name):
    data = real(name)
    assert {key: data.counts[key] for key in COUNTS[name]} == COUNTS[name]
    assert data.counts["sample"] == {"asked": None, "available": len(data.available), "used": len(data.train)}


@pytest.mark.parametrize("name", PLACES)
def test_no_group_is_on_two_sides_and_ids_are_unique(name):
    data = real(name)
    train, validation, test = ({e.group for e in split} for split in (data.available, data.validation, data.test))
    assert not train & validation and not train & test and not validation & test
    examples = everything(name)
    assert len({e.id for e in examples}) == len(examples)


@pytest.mark.parametrize("name", PLACES)
def test_every_example_is_whole(name):
    for example in everything(name):
        assert example.prompt.strip() and example.response.strip() and all(r.strip() for r in example.references)
        assert example.context in example.prompt
        assert len(example.history) % 2 == 0


def test_every_squad_answer_stands_in_its_context():
    examples = everything("squad")
    assert all(reference.strip() in e.context for e in examples for reference in e.references)
    assert len({e.group for e in examples}) == 92
    assert sum(len(e.references) for e in real("squad").test) == 34_726


def test_no_markup_of_guanaco_is_left():
    texts = [text for e in everything("guanaco") for text in (e.prompt, e.response, *(t.text for t in e.history))]
    assert not [text for text in texts if re.search(r"</?s>|\[/?INST\]|<<SYS>>", text)]
    assert sum(bool(e.history) for e in everything("guanaco")) == 375


def test_what_cleaning_leaves_of_the_tweets():
    prompts = [e.prompt for e in everything("tweetsumm")]
    assert not [p for p in prompts if re.search(r"https?://|&amp;|@\d{3,}|  ", p)]
    assert sum(len(re.findall(r"\^[A-Z]{2}\b", p)) for p in prompts) == 3  # a customer's, and "As ^SD mentioned"
    assert sum(p.count("24/7") for p in prompts) == 17


def test_the_dialogue_is_read_alike_from_the_hub_and_from_disk():
    on_disk = real("tweetsumm", path=str(FOLDER / "tweetsumm" / "on_disk_examples.json"), validation=0.2, test=0.2)
    by_id = {e.id: e for e in everything("tweetsumm")}
    examples = on_disk.available + on_disk.validation + on_disk.test
    assert len(examples) == 5 and all(e == by_id[e.id] for e in examples)


def test_no_question_and_no_long_sentence_of_a_medical_answer_is_on_two_sides():
    data = real("medical")

    def words(text):
        return " ".join(re.findall(r"\w+", text.lower()))

    def sentences(examples):
        parts = (words(part) for e in examples for part in re.split(r"(?<=[.!?])\s+", e.references[0]))
        return {part for part in parts if len(part) >= 40}

    held_out = data.validation + data.test
    assert not {words(e.prompt) for e in held_out} & {words(e.prompt) for e in data.available}
    assert not sentences(held_out) & sentences(data.available)
    assert not sentences(data.validation) & sentences(data.test)
    sizes = [size for _, size in Counter(e.group for e in everything("medical")).most_common()]
    assert (len(sizes), sizes[:3]) == (6_276, [8_609, 41, 33])


def meta_ids(processor, example, response: str = "") -> list[int]:
    """`chat_completion` of https://github.com/meta-llama/llama, generation.py: the prompt's ids; and a reply's."""
    texts = [*(turn.text for turn in example.history), example.prompt]
    if example.system:
        texts[0] = f"<<SYS>>\n{example.system}\n<</SYS>>\n\n{texts[0]}"
    ids = []
    for user, answer in zip(texts[:-1:2], texts[1::2], strict=True):
        exchange = f"[INST] {user.strip()} [/INST] {answer.strip()} "
        ids += [processor.bos_id(), *processor.encode(exchange), processor.eos_id()]
    last = f"[INST] {texts[-1].strip()} [/INST] {response.strip()}".strip()
    return [*ids, processor.bos_id(), *processor.encode(last)]


@pytest.mark.parametrize("system", ["", "Answer in one sentence."])
def test_ids_are_those_of_metas_chat_completion(system):
    import sentencepiece

    folder = FOLDER / "llama2-tokenizer"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tokenizer = load_tokenizer(dataclasses.replace(default_config({"model": "tiny"}).model, path=str(folder)))
    examples = [dataclasses.replace(example, system=system) for example in everything("guanaco")]
    assert sum(bool(example.history) for example in examples) == 375
    prompts, _ = encode_prompts(examples, tokenizer, 10**6)
    assert prompts == [meta_ids(processor, example) for example in examples]
    tokens, _ = encode_all(examples, tokenizer, 10**6, 1)
    whole = [[*meta_ids(processor, example, example.response), processor.eos_id()] for example in examples]
    assert [item.input_ids for item in tokens] == whole
