"""Tokenizers from files: ids are SentencePiece's, and every token has an embedding."""

import json
import shutil

import pytest

from llama_exp.errors import UserError
from llama_exp.model.tokenizer import load_tokenizer

from .templates import byte_level, with_tokens
from .test_chat_format import TEXTS, _real
from .test_training_module import base_config


def only_pieces(name, tmp_path):
    for file in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(_real(name) / file, tmp_path / file)
    return tmp_path


@pytest.fixture(scope="module")
def texts():
    from .test_real_rows import everything

    _real("guanaco-llama2-1k")
    return sorted(
        {text for e in everything("guanaco") for text in (e.prompt, e.response)} | {text.strip() for text in TEXTS}
    )


@pytest.mark.parametrize("name", ["llama2-tokenizer", "stories260K"])
def test_a_folder_with_tokenizer_model_alone_gets_the_ids_of_sentencepiece(name, tmp_path, texts, capsys):
    import sentencepiece

    folder = only_pieces(name, tmp_path)
    tokenizer = load_tokenizer(base_config(folder))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert len(texts) > 2700
    ours = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert ours == [processor.encode(text) for text in texts]
    assert "Note" not in capsys.readouterr().out


def test_a_saved_copy_has_the_same_ids(tmp_path, texts):
    from transformers import AutoTokenizer

    tokenizer = load_tokenizer(base_config(only_pieces("llama2-tokenizer", tmp_path)))
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again(texts[:300])["input_ids"] == tokenizer(texts[:300])["input_ids"]


def trained_pieces(folder, turned: bool = False) -> list[str]:
    """A tokenizer.model of 500 pieces with its configuration in `folder`; returns the lines it was made of.

    turned: the last pieces have the best scores, so that merges in the order of ids give other ids.
    """
    import sentencepiece

    from llama_exp import tiny

    sentencepiece.SentencePieceTrainer.train(
        input=str(tiny.PATH / "README.md"), model_prefix=str(folder / "tokenizer"), vocab_size=500, model_type="bpe",
        byte_fallback=True, character_coverage=1.0, minloglevel=2, normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )  # fmt: skip
    if turned:
        from sentencepiece import sentencepiece_model_pb2

        file, model = folder / "tokenizer.model", sentencepiece_model_pb2.ModelProto()
        model.ParseFromString(file.read_bytes())
        merged = [piece for piece in model.pieces if piece.score < 0]
        for piece, score in zip(merged, [piece.score for piece in reversed(merged)], strict=True):
            piece.score = score
        file.write_bytes(model.SerializeToString())
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return [line.strip() for line in (tiny.PATH / "README.md").read_text().splitlines() if line.strip()]


def test_pieces_trained_here_are_read_without_outside_files(tmp_path):
    """The same rule where no copy of Llama 2's tokenizer is at hand."""
    import sentencepiece

    lines = trained_pieces(tmp_path)
    tokenizer = load_tokenizer(base_config(tmp_path))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    ours = tokenizer(lines, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert ours == [processor.encode(line) for line in lines]


def test_tokens_without_an_embedding_are_refused_by_name(llama, tmp_path):
    for file in llama.iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    from transformers import AutoTokenizer

    with_tokens(AutoTokenizer.from_pretrained(llama), "<|image|>", "<|call|>").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"knows '<\|image\|>' \(2048\) and '<\|call\|>' \(2049\).*2048 tokens"):
        load_tokenizer(base_config(tmp_path))


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    tokenizer = byte_level()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no EOS token"):
        load_tokenizer(base_config(tmp_path))
