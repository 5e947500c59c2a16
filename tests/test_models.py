"""Models of different shape, made by transformers: logits, gradients, replies and ids are its own."""

import dataclasses

import pytest
import torch
from peft import PeftModel
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from llama_exp import tiny
from llama_exp.config.schema import Quantisation
from llama_exp.data.chat_format import chat_format
from llama_exp.data.encoding import encode_all, encode_prompts
from llama_exp.data.packing import collate
from llama_exp.evaluation.generation import answers, generate
from llama_exp.model.base import load_base
from llama_exp.model.kernels.forward import response_nll
from llama_exp.model.lora import attach_lora, detach_lora, load_lora, save_lora
from llama_exp.model.tokenizer import load_tokenizer
from llama_exp.records import Example, Turn

from .conftest import make_it_matter
from .templates import CHATML, LLAMA3, MISTRAL, ZEPHYR, byte_level, of_llama2, with_tokens
from .test_chat_format import messages
from .test_training_module import CPU, LORA, base_config

ROPE3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def tokenizer_of_tiny():
    return AutoTokenizer.from_pretrained(tiny.PATH)


# name: (the tokenizer, what its config changes, options of save_pretrained)
MODELS = {
    "every head its own keys, Llama 2's format": (tokenizer_of_tiny, {"num_key_value_heads": 4}, {}),
    "grouped heads": (tokenizer_of_tiny, {"num_key_value_heads": 1}, {}),
    "tied embeddings": (tokenizer_of_tiny, {"tie_word_embeddings": True}, {}),
    "Llama 3: rope scaling and template": (byte_level, {"rope_parameters": ROPE3}, {}),
    "biases": (tokenizer_of_tiny, {"attention_bias": True, "mlp_bias": True}, {}),
    "sharded": (lambda: byte_level(CHATML), {}, {"max_shard_size": "60KB"}),
    "added tokens": (lambda: with_tokens(byte_level(LLAMA3), "<|one|>", "<|two|>"), {}, {}),
    "TinyLlama's template": (lambda: of_llama2(tiny.PATH, ZEPHYR), {}, {}),
    "heads wider than the model, no template": (lambda: byte_level(None), {"head_dim": 32}, {}),
    "yarn": (tokenizer_of_tiny, {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
                                 "original_max_position_embeddings": 256}}, {}),
    "Mistral": (lambda: of_llama2(tiny.PATH, MISTRAL), {"sliding_window": 1024}, {}),
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    make_tokenizer, changes, options = MODELS[request.param]
    folder, tokenizer = tmp_path_factory.mktemp("model"), make_tokenizer()
    kind, model = (MistralConfig, MistralForCausalLM) if request.param == "Mistral" else (LlamaConfig, LlamaForCausalLM)
    shape = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(0)
    made = model(kind(vocab_size=len(tokenizer), **{**shape, **changes}))
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):  # transformers begins with zeros, which would hide a bias that is left out
            torch.nn.init.normal_(parameter, std=0.2)
    made.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    if request.param == "sharded":
        assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


HISTORY = (Turn("user", "Hello."), Turn("assistant", "Hi, ask."))
EXAMPLES = [
    Example("a", "Who dug the lake?", "Miners from Erren", (), "g"),
    Example("b", "Who dug the lake, and when was it dug?", "Nobody", (), "g", history=HISTORY, system="Be brief."),
    Example("c", "Why?", "So that there is water for all of the mills in the valley", (), "g", history=HISTORY),
]


@pytest.fixture(params=[Quantisation.none, Quantisation.nf4])
def model(request, folder, tmp_path):
    """(ours with an adapter, transformers' and PEFT's own with the same files, the tokenizer)."""
    base = load_base(base_config(folder, request.param), CPU)
    model = attach_lora(base, LORA, 0)
    make_it_matter(model)
    save_lora(model, tmp_path / "adapter")
    options = {"quantization_config": nf4()} if request.param is Quantisation.nf4 else {}
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()
    if options:  # bitsandbytes' own 4-bit product on CPUs with AVX-512 rounds, and fits only some shapes
        theirs = theirs.dequantize()
    theirs = PeftModel.from_pretrained(theirs, str(tmp_path / "adapter"), is_trainable=True)
    yield model, theirs, load_tokenizer(base_config(folder))
    detach_lora(model)


def nf4():
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )


def test_losses_gradients_and_replies_are_those_of_transformers(model):
    ours, theirs, tokenizer = model
    tokens, _ = encode_all(EXAMPLES, tokenizer, 1000, 64)
    assert [item.id for item in tokens] == ["a", "b", "c"]
    nll, _ = response_nll(ours, collate(tokens))
    expected = []
    for item in tokens:
        logits = theirs(input_ids=torch.tensor([item.input_ids]), use_cache=False).logits[0]
        labels = torch.tensor(item.labels)
        each = F.cross_entropy(logits[:-1].float(), labels[1:], reduction="none", ignore_index=-100)
        expected.append(each[labels[1:] != -100])
    expected = torch.cat(expected)
    assert torch.allclose(nll, expected, rtol=1e-4, atol=1e-4)
    nll.sum().backward()
    expected.sum().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert len(gradients) == 2 * 7 * 2
    for name, parameter in ours.named_parameters():
        if name in gradients:
            limit = 1e-4 * float(gradients[name].abs().max())
            assert torch.allclose(parameter.grad, gradients[name], rtol=1e-3, atol=limit), name

    prompts, _ = encode_prompts(EXAMPLES, tokenizer, 900)
    end = chat_format(tokenizer).end
    replies = {
        one.index: one for batch in answers(ours, tokenizer, prompts, tokens, max_new_tokens=12) for one in batch
    }
    batched = generate(ours, tokenizer, prompts, max_new_tokens=12, batch=2)
    assert {one.index: one.text for batch in batched for one in batch} == {at: one.text for at, one in replies.items()}
    for index, prompt in enumerate(prompts):
        out = theirs.generate(
            input_ids=torch.tensor([prompt]), do_sample=False, max_new_tokens=12, eos_token_id=end, pad_token_id=end
        )
        new = out[0, len(prompt) :].tolist()
        text = tokenizer.decode(new[: new.index(end)] if end in new else new, skip_special_tokens=True).strip()
        assert (replies[index].text, replies[index].finished) == (text, end in new)


def test_ids_are_those_of_its_template(folder):
    tokenizer = load_tokenizer(base_config(folder))
    form = chat_format(tokenizer)
    if form.describe()["kind"] == "llama2":  # held against Meta's reference in test_real_rows.py
        assert tokenizer.chat_template is None
        return
    for example in EXAMPLES:
        if example.system and not form.has_system:
            example = dataclasses.replace(example, system="")
        ids = tokenizer.apply_chat_template(
            messages(example), chat_template=form.template, add_generation_prompt=True, return_dict=False
        )
        assert form.prompts([example]) == [ids]


def test_a_saved_adapter_is_loaded_again(folder, tmp_path):
    base = load_base(base_config(folder), CPU)
    model = attach_lora(base, LORA, 0)
    make_it_matter(model)
    tokens, _ = encode_all(EXAMPLES, load_tokenizer(base_config(folder)), 1000, 64)
    with torch.no_grad():
        before, _ = response_nll(model.eval(), collate(tokens))
    save_lora(model, tmp_path / "adapter")
    detach_lora(model)
    again = load_lora(base, tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(response_nll(again, collate(tokens))[0], before)
    detach_lora(again)
