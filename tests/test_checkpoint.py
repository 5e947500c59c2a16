"""A base is loaded whole or not at all, and an adapter is the one that training saved."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_exp import tiny
from llama_exp.config.checksums import fast_sha256
from llama_exp.config.schema import Quantisation
from llama_exp.errors import UserError
from llama_exp.model.adapters import SharedBase
from llama_exp.model.base import check_length, load_base
from llama_exp.model.checkpoint import read_checkpoint
from llama_exp.model.lora import attach_lora, detach_lora, load_lora, save_lora
from llama_exp.runs.run import Run

from .conftest import small
from .test_training_module import CPU, LORA, base_config


def configured(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def quantised_by(method):
    return lambda folder: configured(folder, quantization_config={"quant_method": method, "bits": 4})


def reweighted(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def sharded(folder):
    from transformers import LlamaForCausalLM

    LlamaForCausalLM.from_pretrained(folder).save_pretrained(folder / "shards", max_shard_size="100KB")
    shutil.copy(folder / "config.json", folder / "shards" / "config.json")
    (folder / "model.safetensors").unlink()
    shutil.copytree(folder / "shards", folder, dirs_exist_ok=True)


def without_a_shard(folder):
    sharded(folder)
    next(folder.glob("model-00002-*")).unlink()


def shard_without_a_weight(folder):
    sharded(folder)
    path = next(folder.glob("model-00001-*"))
    weights = load_file(path)
    weights.popitem()
    save_file(weights, path, metadata={"format": "pt"})


def adapter_beside(folder):
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


ROPE = {"rope_theta": 1e4, "factor": 2.0}
PARTIAL_ROPE = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
REFUSED = {
    "one layer more": (lambda f: configured(f, num_hidden_layers=4), "missing: model.layers.3.input_layernorm.weight"),
    "one layer fewer": (lambda f: configured(f, num_hidden_layers=2), "surplus: model.layers.2.input_layernorm"),
    "another width": (lambda f: configured(f, intermediate_size=96), r"of another size: .*\[128, 64\] for \[96, 64\]"),
    "another vocabulary": (lambda f: configured(f, vocab_size=2050), r"model.embed_tokens.weight \[2048, 64\] for"),
    "biases that are not there": (lambda f: configured(f, mlp_bias=True), "missing: .*down_proj.bias"),
    "a weight too many": (lambda f: reweighted(f, lambda w: w | {"extra": torch.ones(2)}), "surplus: extra"),
    "bytes for numbers": (
        lambda f: reweighted(f, lambda w: w | {"lm_head.weight": w["lm_head.weight"].to(torch.int8)}),
        "I8",
    ),
    "tied, with an output layer of its own": (lambda f: configured(f, tie_word_embeddings=True), "not the embeddings"),
    "an adapter beside it": (adapter_beside, "adapter_config.json: an adapter"),
    "half a file": (cut, "model.safetensors is damaged or cut short"),
    "no file of a shard": (without_a_shard, "lacks model-00002-of"),
    "a shard without a weight": (shard_without_a_weight, "missing: "),
    "a damaged index": (lambda f: (sharded(f), (f / "model.safetensors.index.json").write_text("{")), "is damaged"),
    "pickled weights": (pickled, "neither model.safetensors nor"),
    "gptq": (quantised_by("gptq"), r"quantised already \(gptq"),
    "awq": (quantised_by("awq"), r"quantised already \(awq"),
    "dropout in attention": (
        lambda f: configured(f, attention_dropout=0.1),
        "attention_dropout=0.1, which is not applied",
    ),
    "dynamic rope": (lambda f: configured(f, rope_parameters={"rope_type": "dynamic", **ROPE}), "type 'dynamic'"),
    "an unknown rope": (lambda f: configured(f, rope_parameters={"rope_type": "spiral", **ROPE}), "'spiral'"),
    "rope on a part of a head": (
        lambda f: configured(f, rope_parameters=PARTIAL_ROPE),
        "partial_rotary_factor",
    ),
    "another activation": (lambda f: configured(f, hidden_act="gelu"), "activation 'gelu'"),
    "another architecture": (lambda f: configured(f, model_type="gpt2"), "'gpt2' model"),
}  # fmt: skip


@pytest.fixture
def copy(llama, tmp_path):
    shutil.copytree(llama, tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("what", REFUSED)
def test_a_base_that_is_not_whole_is_refused_by_name(copy, what):
    change, message = REFUSED[what]
    change(copy)
    with pytest.raises(UserError, match=message):
        load_base(base_config(copy), CPU)


def test_the_command_refuses_a_base_without_its_output_layer(tmp_path, command):
    shutil.copytree(tiny.PATH, tmp_path / "base")
    configured(tmp_path / "base", tie_word_embeddings=False)
    words = [*small(), f"model.path={tmp_path}/base", f"outputs={tmp_path}/o"]
    done = command("train.py", *words, check=None)
    assert done.returncode == 2 and "missing: lm_head.weight" in done.stderr
    assert not list((tmp_path / "o").rglob("adapter"))


def test_what_is_whole_loads_sharded_or_with_its_tied_output_layer_stored_too(copy, tmp_path):
    sharded(copy)
    load_base(base_config(copy), CPU)
    shutil.copytree(tiny.PATH, tmp_path / "tied")
    reweighted(tmp_path / "tied", lambda w: w | {"lm_head.weight": w["model.embed_tokens.weight"].clone()})
    load_base(base_config(tmp_path / "tied"), CPU)


def test_a_base_is_what_from_pretrained_makes_of_its_folder(copy):
    """Also what it knows beside the weights: its name, and how it is meant to answer."""
    from transformers import AutoModelForCausalLM

    generation = copy / "generation_config.json"
    generation.unlink(missing_ok=True)
    configured(copy, do_sample=True, temperature=0.6, max_length=77)
    model = dataclasses.replace(base_config(copy), quantisation=Quantisation.none)
    for _ in range(2):
        found, expected = load_base(model, CPU), AutoModelForCausalLM.from_pretrained(copy)
        assert type(found) is type(expected) and found.config.to_dict() == expected.config.to_dict()
        weights = expected.state_dict()
        assert found.state_dict().keys() == weights.keys()
        assert all(torch.equal(value, weights[name]) for name, value in found.state_dict().items())
        assert found.name_or_path == found.config.name_or_path == found.model.name_or_path == str(copy)
        assert found.generation_config.to_dict() == expected.generation_config.to_dict()
        assert found.generation_config.temperature == (0.8 if generation.is_file() else 0.6)
        generation.write_text(json.dumps({"do_sample": True, "temperature": 0.8, "eos_token_id": 2}))
    generation.write_text(json.dumps({"do_sample": False, "num_return_sequences": 3}))
    with pytest.raises(UserError, match=r"Could not load model\.path="):
        load_base(model, CPU)


def test_a_fast_checksum_sees_sizes_headers_and_weights(copy):
    path = copy / "model.safetensors"
    before = fast_sha256(path)
    whole = read_checkpoint(base_config(copy)).checksums(full=True)
    assert fast_sha256(path) == before and len(whole["model.safetensors"]) == 64
    reweighted(copy, lambda w: {name: value * 1.01 for name, value in w.items()})
    assert fast_sha256(path) != before
    changed = read_checkpoint(base_config(copy)).checksums(full=True)
    assert [name for name in whole if whole[name] != changed[name]] == ["model.safetensors"]


@pytest.fixture
def base(llama):
    return load_base(base_config(llama), CPU)


def peft_adapter(base, folder, modules):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(base, LoraConfig(r=2, target_modules=modules, task_type="CAUSAL_LM"))
    model.save_pretrained(folder, save_embedding_layers=False)
    detach_lora(model)
    return folder


@pytest.mark.parametrize(("modules", "named"), [(["q_proj", "lm_head"], "lm_head"), (["embed_tokens"], "embed_tokens")])
def test_an_adapter_on_what_is_computed_without_it_is_refused(base, tmp_path, modules, named):
    folder = peft_adapter(base, tmp_path / "adapter", modules)
    with pytest.raises(UserError, match=f"changes {named}, which would be computed without it"):
        load_lora(base, folder)
    assert not hasattr(base, "peft_config")


@pytest.mark.parametrize("change", ["missing", "left over"])
def test_an_adapter_with_half_its_weights_is_refused(base, tmp_path, change):
    save_lora(model := attach_lora(base, LORA, 0), tmp_path / "adapter")
    detach_lora(model)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = whole = load_file(path)
    if change == "missing":
        weights = dict(list(weights.items())[: len(weights) // 2])
    else:
        name = next(iter(weights))
        weights = whole | {name.replace("layers.0", "layers.9"): whole[name].clone()}
    save_file(weights, path)
    with pytest.raises(UserError, match="are missing or left over"):
        load_lora(base, tmp_path / "adapter")
    save_file(whole, path)
    detach_lora(load_lora(base, tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"peft_type": "IA3"}, "peft_type=IA3"),
    ],
)
def test_what_peft_can_and_we_do_not_compute_is_refused(base, tmp_path, changes, named):
    save_lora(model := attach_lora(base, LORA, 0), tmp_path / "adapter")
    detach_lora(model)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=named):
        load_lora(base, tmp_path / "adapter")


@pytest.fixture(scope="module")
def trained(llama, tmp_path_factory):
    """(words, the base's folder, outputs) of one small run on a base of its own."""
    import subprocess

    from .conftest import ROOT, python

    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(llama, folder / "base")
    words = [*small(), f"model.path={folder}/base", "model.sha256=true", f"outputs={folder}/o"]
    done = subprocess.run(python("train.py", *words), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return words, folder / "base", folder / "o"


def flipped(whole: bytes) -> bytes:
    return whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]


def test_a_flipped_bit_in_an_adapter_or_a_base_is_refused_by_name(trained, command):
    words, base, outputs = trained
    [summary] = outputs.glob("squad/*/summary.json")
    stored = json.loads(summary.read_text())
    assert set(stored["adapter"]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(stored["base"])
    for path, change, message in (
        (
            summary.parent / "adapter" / "adapter_model.safetensors",
            flipped,
            "adapter_model.safetensors is not the file",
        ),
        (base / "model.safetensors", flipped, "model.safetensors changed"),
        (base / "tokenizer_config.json", lambda whole: whole + b"\n", "tokenizer_config.json"),
    ):
        whole = path.read_bytes()
        path.write_bytes(change(whole))
        done = command("evaluate.py", *words, f"out={summary.parent}", check=None)
        path.write_bytes(whole)
        assert done.returncode == 2 and message in done.stderr, done.stderr[-2000:]
    assert not list(outputs.glob("squad/*/eval/*/results.json"))
    command("evaluate.py", *words)


def test_every_adapter_on_a_shared_base_is_checked(trained, tmp_path):
    _, _, outputs = trained
    [run] = [Run.load(path.parent) for path in outputs.glob("squad/*/config.yaml")]
    shutil.copytree(run.folder, tmp_path / "second")
    path = tmp_path / "second" / "adapter" / "adapter_model.safetensors"
    path.write_bytes(flipped(path.read_bytes()))
    shared = SharedBase(run.config, run.config.trainer)
    shared.add(run.adapter)
    with pytest.raises(UserError, match="is not the file that training saved"):
        shared.add(tmp_path / "second" / "adapter")
    with shared.use(run.adapter) as model:
        assert list(model.peft_config) == ["default"]


def test_a_mistral_with_the_layers_of_a_llama_loads_and_its_window_is_kept(tmp_path, tokenizer):
    from transformers import MistralConfig, MistralForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(vocab_size=len(tokenizer), num_key_value_heads=2, sliding_window=64, **shape)
    MistralForCausalLM(config).save_pretrained(tmp_path)
    base = load_base(dataclasses.replace(base_config(tmp_path)), CPU)
    check_length(base, 64)
    with pytest.raises(UserError, match=r"last 64 tokens alone .*Type max_length=64"):
        check_length(base, 65)
