"""Reading GGUF, the file format of llama.cpp: a Llama decoder, dequantised, with its byte-level tokenizer.

Needs the package `gguf` (the extra of that name), which knows the file's layout and the quantisations. What a file says
about the model is taken by name; what is not known here is refused, because it may change what the model computes.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcore import _core
from llmcore.errors import CheckpointError, ConfigError, DataError
from llmcore.models.llama import LlamaConfig, LlamaForCausalLM

if TYPE_CHECKING:
    from llmcore.data.tokenizer import Tokenizer

_FIELDS = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "rope.dimension_count": "head_dim",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "vocab_size": "vocab_size",
}
_ROPE_THETA = "rope.freq_base"
_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_CONTROL, _USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type


def load_gguf(
    path: str | Path, dtype: _core.DType = _core.DType.float32, device: str = "cpu", seed: int = 42
) -> LlamaForCausalLM:
    """The model in a GGUF file, its weights dequantised to `dtype`, with its tokenizer attached.

    Raises ConfigError for another architecture, for settings that are not known here, and where the package `gguf` is
    missing; CheckpointError for a file that cannot be read. A tokenizer of another kind than byte-level BPE is left
    out with a warning.
    """
    reader = _open(path)
    config = _config(reader, str(path))
    model = LlamaForCausalLM(config, seed=seed, dtype=dtype, device=device, initialize=False)
    own = model.state_dict()
    filled = set()
    for tensor in reader.tensors:  # one at a time: the file is quantised, the float32 copy is much larger
        name = _name(tensor.name, str(path))
        if name not in own:
            raise CheckpointError(f"{path}: tensor {tensor.name!r} does not belong to this model")
        array = _array(tensor, name, config)
        if array.shape != own[name].shape:
            raise CheckpointError(f"{path}: {tensor.name} must have shape {own[name].shape}, got {array.shape}")
        own[name].copy_(_core.from_numpy(array))
        filled.add(name)
    if missing := sorted(set(own) - filled):
        raise CheckpointError(f"{path}: no tensor for {missing[0]!r} ({len(missing)} of {len(own)} are missing)")
    try:
        model.tokenizer = _tokenizer(reader, str(path))
    except DataError as error:
        warnings.warn(f"{error}; the model is loaded without a tokenizer", stacklevel=2)
    return model


def convert_gguf(path: str | Path, directory: str | Path, dtype: _core.DType = _core.DType.float32) -> None:
    """Writes the model, its tokenizer and chat template as a folder that `from_pretrained`, ours and transformers',
    reads."""
    model = load_gguf(path, dtype)
    model.save_pretrained(directory)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(directory)


def _open(path: str | Path) -> Any:
    try:
        import gguf
    except ImportError:
        raise ConfigError("reading GGUF needs the package gguf: pip install 'llmcore[gguf]'") from None
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        return gguf.GGUFReader(str(path))
    except Exception as error:  # a damaged file makes the reader raise whatever it runs into
        raise CheckpointError(f"{path} is not a GGUF file that can be read: {error}") from None


def _value(reader: Any, name: str, default: Any = None) -> Any:
    field = reader.get_field(name)
    return default if field is None else field.contents()


def _config(reader: Any, source: str) -> LlamaConfig:
    architecture = _value(reader, "general.architecture")
    if architecture != "llama":
        raise ConfigError(f"{source}: the architecture must be 'llama', got {architecture!r}")
    values: dict[str, Any] = {}
    theta = 10000.0
    for name in reader.fields:
        if not name.startswith("llama."):
            continue
        key, value = name.removeprefix("llama."), _value(reader, name)
        if key in _FIELDS:
            values[_FIELDS[key]] = value
        elif key == _ROPE_THETA:
            theta = value
        elif key in ("attention.key_length", "attention.value_length"):
            if value != values.setdefault("head_dim", value):
                raise ConfigError(f"{source}: {name}={value} must be the size of a head, {values['head_dim']}")
        else:
            raise ConfigError(f"{source}: unknown setting {name!r} ({value!r}): it may change what the model computes")
    if "rms_norm_eps" in values:  # stored as float32: back to the shortest number that means it
        values["rms_norm_eps"] = float(str(np.float32(values["rms_norm_eps"])))
    tensors = {tensor.name for tensor in reader.tensors}
    for kind in ("bos", "eos"):
        values[f"{kind}_token_id"] = _value(reader, f"tokenizer.ggml.{kind}_token_id")
    values["pad_token_id"] = _value(reader, "tokenizer.ggml.padding_token_id")
    values["vocab_size"] = next(int(t.shape[-1]) for t in reader.tensors if t.name == "token_embd.weight")
    return LlamaConfig(
        **values,
        rope_parameters={"rope_theta": float(theta)},
        tie_word_embeddings="output.weight" not in tensors,
        attention_bias="blk.0.attn_q.bias" in tensors,
        mlp_bias="blk.0.ffn_up.bias" in tensors,
    )


def _name(name: str, source: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    stem, _, kind = name.rpartition(".")
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if layer and layer[2] in _LAYER_TENSORS:
        return f"model.layers.{layer[1]}.{_LAYER_TENSORS[layer[2]]}.{kind}"
    if stem in _TENSORS:
        return f"{_TENSORS[stem]}.{kind}"
    raise ConfigError(f"{source}: unknown tensor {name!r}: it may change what the model computes")


def _array(tensor: Any, name: str, config: LlamaConfig) -> np.ndarray:
    import gguf

    shape = tuple(int(size) for size in reversed(tensor.shape))
    array = np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32).reshape(shape)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return array
    # llama.cpp turns the pairs (2i, 2i + 1) and stores the rows of q and k in that order; here a pair is (i, i + HS/2).
    pairs = array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(shape)


def _tokenizer(reader: Any, source: str) -> Tokenizer:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors

    from llmcore.data.tokenizer import Tokenizer

    kind, words = (_value(reader, f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    known = {
        "gpt-2": by_bytes,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), by_bytes]),
    }
    if kind != "gpt2" or words not in known:
        raise DataError(f"{source}: a tokenizer of kind {kind!r} with words {words!r} is not known here")
    if _value(reader, "tokenizer.ggml.add_bos_token", False):
        raise DataError(f"{source}: a tokenizer that begins texts with a token is not known here")
    tokens = _value(reader, "tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ")) for pair in _value(reader, "tokenizer.ggml.merges")]
    backend = tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = known[words]
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    types = _value(reader, "tokenizer.ggml.token_type", [])
    for chosen, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        added = [tokens[i] for i, token_type in enumerate(types) if token_type == chosen]
        backend.add_tokens([tokenizers.AddedToken(token, special=special, normalized=False) for token in added])
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {name: _value(reader, f"tokenizer.ggml.{field}_token_id") for name, field in names.items()}
    special = {f"{name}_token": tokens[i] for name, i in ids.items() if i is not None}
    return Tokenizer(
        backend,
        model_max_length=_value(reader, "llama.context_length"),
        chat_template=_value(reader, "tokenizer.chat_template"),
        **special,
    )
