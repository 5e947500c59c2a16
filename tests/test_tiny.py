"""The embedded model: whole files, a Llama-2-style tokenizer, a language model that copies and cannot answer."""

import json
import random
import shutil
import sys

import pytest
import torch

from llama_exp import tiny
from llama_exp.data.synthetic import prose, rows
from llama_exp.data.synthetic.squad import paragraph
from llama_exp.data.synthetic.world import World
from llama_exp.errors import UserError

MEGABYTE = 1_000_000
LOADED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny.PATH)


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny.PATH, dtype=torch.float32).eval()


@pytest.fixture
def copied(tmp_path):
    for name in (*LOADED, "SHA256SUMS"):
        shutil.copy(tiny.PATH / name, tmp_path / name)
    return tmp_path


def test_the_shipped_files_are_whole_and_within_9_megabytes():
    tiny.verify()
    assert sum((tiny.PATH / name).stat().st_size for name in LOADED) <= 9 * MEGABYTE


def test_one_flipped_byte_is_told(copied):
    weights = bytearray((copied / "model.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (copied / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged .*`git checkout"):
        tiny.verify(copied)


def test_missing_and_cut_files_are_told_together(copied):
    (copied / "tokenizer.json").unlink()
    (copied / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged .*; tokenizer\.json is missing"):
        tiny.verify(copied)


def test_missing_checksums_are_told(copied):
    (copied / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="SHA256SUMS is missing"):
        tiny.verify(copied)


def test_every_loaded_file_has_a_checksum():
    listed = [line.split()[1] for line in (tiny.PATH / "SHA256SUMS").read_text().splitlines()]
    assert sorted(listed) == sorted(LOADED)


def test_a_llama_of_at_most_4_million_parameters(model):
    assert model.config.model_type == "llama"
    assert sum(p.numel() for p in model.parameters()) <= 4_000_000
    assert model.config.hidden_size % 64 == model.config.intermediate_size % 64 == 0  # an NF4 block lies in one row


def test_special_ids_are_llama_2s(tokenizer):
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<unk>", "<s>", "</s>"]
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert len(tokenizer) <= 4_096
    assert tokenizer("one").input_ids[0] == 1  # BOS by default, no EOS
    assert tokenizer("one").input_ids[-1] != 2


def plain(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


@pytest.mark.parametrize(
    "text",
    [
        "The founder of Brandor was Klaren Vimo.",
        "two  spaces",
        " leading",
        "trailing ",
        "a\nb\n\n c\t.",
        "naïve café",
        "日本",
        "😡 &amp; ^AB",
        "\x00\x7f",
        "[INST] x [/INST]",
        "<s> and </s> as text",
        "1,234.5",
    ],
)
def test_text_comes_back_from_its_ids(tokenizer, text):
    ids = plain(tokenizer, text)
    assert 0 not in ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_unknown_characters_are_written_as_bytes(tokenizer):
    pieces = tokenizer.convert_ids_to_tokens(plain(tokenizer, "x😡\n"))
    assert pieces[-5:] == ["<0xF0>", "<0x9F>", "<0x98>", "<0xA1>", "<0x0A>"]


def test_special_tokens_in_text_stay_text(tokenizer):
    assert not {1, 2} & set(plain(tokenizer, "<s> [INST] hello [/INST] </s>"))


def test_an_answer_has_the_ids_it_has_in_its_context(tokenizer):
    """Encoded alone or inside a sentence, before a full stop or a comma: what is copied is what is learnt."""
    for name in ("Brandor", "Klaren Vimo", "the Stelor", "Cape Winlor", "salt", "1843", "12,345"):
        for after in (".", ",", " lies there", "?"):
            ids, whole = plain(tokenizer, name), plain(tokenizer, f"It is {name}{after}")
            assert any(whole[i : i + len(ids)] == ids for i in range(len(whole))), (name, after)


def test_a_prompt_with_its_answer_fits_into_512_tokens(tokenizer):
    lengths = [
        len(plain(tokenizer, f"{row['context']} {row['question']} {row['answers']['text'][0]}"))
        for row in rows("squad", "train", 1_000, seed=0)
    ]
    assert max(lengths) + 60 <= 512  # 60: the wording around it
    assert sum(lengths) / len(lengths) < 220


@torch.no_grad()
def loss(model, ids: list[int], start: int) -> float:
    """Mean negative log-likelihood of ids[start:], given what stands before."""
    logits = model(input_ids=torch.tensor([ids])).logits[0, start - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[start:])).item()


def test_it_has_learnt_its_language(model, tokenizer):
    """Prose with other seeds than it was trained on: about 1 nat a token, where chance is log(2,048) = 7.6."""
    losses = [loss(model, tokenizer(text).input_ids, 1) for text in prose(40, seed=123_456_789)]
    assert sum(losses) / len(losses) < 1.5


def test_it_finds_a_fact_of_unseen_names_in_its_context(model, tokenizer):
    """A fact told again in other words costs a small part of what it costs after somebody else's paragraph."""
    rng = random.Random(0)
    world = World("test", rng)
    paragraphs = [paragraph(rng, (world.subject("town"), world.subject("town"))) for _ in range(20)]
    within, without = [], []
    for (context, facts), (elsewhere, _) in zip(paragraphs, paragraphs[1:] + paragraphs[:1], strict=True):
        fact = rng.choice(facts)
        clause = fact.relation.clauses[0].replace("{s}", fact.subject.name)
        value = plain(tokenizer, fact.value)
        for text, losses in ((context, within), (elsewhere, without)):
            before = tokenizer(f"{text}\n\nT{clause[1:]} is").input_ids
            losses.append(loss(model, before + value, len(before)))
    assert sum(within) < sum(without) / 5


@torch.no_grad()
def test_untuned_it_cannot_answer_a_prompt(model, tokenizer):
    """Rank 0 is an honest baseline: of 40 greedy replies no more than 6 (15 %) begin with the answer."""
    right = 0
    for row in rows("squad", "test", 40, seed=0):
        message = (
            f"Answer the question with words from the context.\n\nContext: {row['context']}\n\n"
            f"Question: {row['question']}"
        )
        ids = torch.tensor([[1, *plain(tokenizer, f"[INST] {message} [/INST]")]])
        reply = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, pad_token_id=0
        )
        right += tokenizer.decode(reply[0, ids.shape[1] :]).strip().startswith(tuple(row["answers"]["text"]))
    assert right <= 6


def test_nf4_changes_its_loss_by_less_than_a_tenth(model, tokenizer):
    """NF4 with double quantisation, in the blocks of 64 that bitsandbytes uses, against 16 bit."""
    functional = pytest.importorskip("bitsandbytes.functional")
    texts = [tokenizer(text).input_ids for text in prose(20, seed=987_654_321)]
    exact = sum(loss(model, ids, 1) for ids in texts)
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        if "proj" in name:
            code, state = functional.quantize_4bit(
                parameter.data, blocksize=64, quant_type="nf4", compress_statistics=True
            )
            parameter.data.copy_(functional.dequantize_4bit(code, state))
    rounded = sum(loss(model, ids, 1) for ids in texts)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(kept[name])
    assert rounded != exact  # something was rounded
    assert rounded < 1.1 * exact


def test_the_shipped_tokenizer_is_what_the_script_makes(tmp_path):
    """The same pieces from the same prose: the recipe in the repository is the one that was used."""
    from llama_exp.tiny import pretrain

    made = json.loads(pretrain.train_tokenizer().to_str())
    assert (
        made["model"]["vocab"]
        == json.loads((tiny.PATH / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    )


def test_the_package_of_the_model_loads_no_torch():
    import subprocess

    code = "import sys, llama_exp.tiny as t; t.verify(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tiny.PATH.parents[1], check=False).returncode == 0
