"""Llama (Touvron et al. 2023, arXiv:2302.13971, arXiv:2307.09288), with the names of transformers.

A decoder of pre-norm blocks: token embeddings, L times (attention with rotary positions and grouped key/value heads,
gated MLP), a last norm, and a head of its own or that of the embedding. Every residual addition is done together with
the norm that follows it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from llmcore import _core, nn
from llmcore import functional as F
from llmcore.autograd import Generator, Tensor
from llmcore.errors import ConfigError
from llmcore.models.cache import KVCache
from llmcore.models.causal_lm import CausalLM
from llmcore.models.classification import DecoderForSequenceClassification
from llmcore.models.config import ModelConfig
from llmcore.models.decoder import Decoder, run_blocks
from llmcore.models.dimensions import Dimensions
from llmcore.models.inputs import Positions
from llmcore.models.packed import Documents
from llmcore.models.rope import RotaryTables, standard_rope_parameters
from llmcore.nn.layers import Initializer


@dataclasses.dataclass
class LlamaConfig(ModelConfig):
    """Field names and defaults of transformers' LlamaConfig; the defaults are the 7B model.

    `rope_parameters` holds `rope_type`, `rope_theta` and the numbers of the rule (see `llmcore.models.rope`). Files
    written before transformers 5 have `rope_theta` and `rope_scaling` instead, which are read, too.
    """

    model_type: ClassVar[str] = "llama"
    without_effect: ClassVar[frozenset[str]] = frozenset(["pretraining_tp"])
    only_value: ClassVar[dict[str, Any]] = {"rope_interleaved": False}

    size_fields: ClassVar[dict[str, str]] = {
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "width": "hidden_size",
        "positions": "max_position_embeddings",
    }
    dropout_fields: ClassVar[tuple[str, ...]] = ("attention_dropout",)

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None  # None: num_attention_heads
    head_dim: int | None = None  # None: hidden_size / num_attention_heads
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    rope_parameters: dict[str, Any] | None = None  # None: theta 10000, not scaled
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        for name in (*sizes, "num_key_value_heads", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise ConfigError(f"LlamaConfig: {name} must be at least 1, got {getattr(self, name)}")
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % heads:
            message = f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads={heads}"
            raise ConfigError(f"LlamaConfig: {message}")
        if heads % kv_heads:
            message = f"num_attention_heads={heads} must be a multiple of num_key_value_heads={kv_heads}"
            raise ConfigError(f"LlamaConfig: {message}")
        if self.head_dim is None:
            self.head_dim = self.hidden_size // heads
        if self.head_dim < 2 or self.head_dim % 2:
            raise ConfigError(f"LlamaConfig: head_dim must be even: rotary positions turn pairs; got {self.head_dim}")
        if self.hidden_act not in ("silu", "swish"):
            raise ConfigError(f'LlamaConfig: hidden_act must be "silu", got {self.hidden_act!r}')
        if not 0 <= self.attention_dropout < 1:
            raise ConfigError(f"LlamaConfig: attention_dropout must be in [0, 1), got {self.attention_dropout}")
        self.check_epsilon("rms_norm_eps")
        super().__post_init__()
        self.rope_parameters = standard_rope_parameters(self.rope_parameters, self.max_position_embeddings)
        if self.rope_parameters["rope_type"] == "dynamic" and self.head_dim == 2:
            raise ConfigError("LlamaConfig: rope_type 'dynamic' needs a head_dim above 2")

    def dimensions(self) -> Dimensions:
        """Sizes of the model with its head."""
        C, L, inner = self.hidden_size, self.num_hidden_layers, self.intermediate_size
        queries, keys = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        biases = self.attention_bias * (queries + 2 * keys + C) + self.mlp_bias * (2 * inner + C)
        return Dimensions(
            layers=L,
            heads=self.num_attention_heads,
            width=C,
            attention_width=queries,
            positions=self.max_position_embeddings,
            matrices=L * (2 * C * queries + 2 * C * keys + 3 * C * inner),
            tables=self.vocab_size * C,
            vectors=L * (2 * C + biases) + C,
            head=self.vocab_size * C,
            tied=self.tie_word_embeddings,
        )

    def resized(self, dropout: float | None = None, **sizes: int | None) -> LlamaConfig:
        """As for every model. A new width or number of heads gives a new size of a head; the inner width of the MLP
        keeps its proportion, and as many heads as before share one of keys and values if the new number allows it.
        """
        heads, width = sizes.pop("heads", None), sizes.pop("width", None)
        config = super().resized(dropout, **sizes)
        if heads is None and width is None:
            return config
        heads, width = heads or self.num_attention_heads, width or self.hidden_size
        shared = self.num_attention_heads // self.num_key_value_heads
        return config.replace(
            hidden_size=width,
            num_attention_heads=heads,
            num_key_value_heads=heads // shared if heads % shared == 0 else heads,
            head_dim=None,
            intermediate_size=-(-self.intermediate_size * width // self.hidden_size // 8) * 8,
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "config") -> LlamaConfig:
        """Raises ConfigError for a field that is unknown or has a value which this library does not compute."""
        values = dict(values)
        theta, scaling = values.pop("rope_theta", None), values.pop("rope_scaling", None)
        parameters = dict(scaling or values.get("rope_parameters") or {})  # in transformers' order
        if theta is not None:
            parameters.setdefault("rope_theta", theta)
        values["rope_parameters"] = parameters or None
        return super().from_dict(values, source)


# Two small ones for a CPU and for tests, and the shape of the published SmolLM2-135M.
LLAMA_PRESETS = {
    "llama-tiny": LlamaConfig(
        vocab_size=50257,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    ),
    "llama-mini": LlamaConfig(
        vocab_size=50257,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    ),
    "smollm2-135m": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_theta": 100000.0},
        tie_word_embeddings=True,
    ),
}


@dataclasses.dataclass
class Rotation:
    """The tables of rotary positions and each token's place in them, the same for all layers of a forward pass."""

    cos: _core.Tensor  # (P, HS/2)
    sin: _core.Tensor
    positions: _core.Tensor | None  # (B, T), None: 0 .. T-1
    head_dim: int

    def __call__(self, x: Tensor) -> Tensor:
        """x (B, T, heads*HS), turned."""
        return F.rope(x, self.cos, self.sin, self.head_dim, self.positions)


class LlamaAttention(nn.Module):
    """Causal self-attention; several heads of queries share one of keys and values."""

    def __init__(self, config: LlamaConfig, layer: int, init: Initializer, name: str, generator: Generator):
        C, HS, std = config.hidden_size, config.head_dim, config.initializer_range
        queries, keys = config.num_attention_heads * HS, config.num_key_value_heads * HS
        bias = config.attention_bias
        self.q_proj = nn.Linear(init, f"{name}.q_proj", C, queries, std=std, bias=bias)
        self.k_proj = nn.Linear(init, f"{name}.k_proj", C, keys, std=std, bias=bias)
        self.v_proj = nn.Linear(init, f"{name}.v_proj", C, keys, std=std, bias=bias)
        self.o_proj = nn.Linear(init, f"{name}.o_proj", queries, C, std=std, bias=bias)
        self.layer, self.num_heads, self.num_kv_heads = layer, config.num_attention_heads, config.num_key_value_heads
        self.scale = 1 / math.sqrt(HS)
        self.dropout_p, self.generator = config.attention_dropout, generator

    def __call__(
        self, x: Tensor, rotation: Rotation, lengths: _core.Tensor | Documents | None, past: KVCache | None
    ) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        q = rotation(self.q_proj(x))  # (B, T, NH*HS)
        k = rotation(self.k_proj(x))  # (B, T, NKV*HS)
        v = self.v_proj(x)  # (B, T, NKV*HS)
        if past is not None:
            y = past.attend(self.layer, q, k, v, self.num_heads, self.num_kv_heads, self.scale)
        elif isinstance(lengths, Documents):
            y = lengths.attend(self.attend, q, k, v)
        else:
            y = self.attend(q, k, v, lengths)
        return self.o_proj(y)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, lengths: _core.Tensor | None) -> Tensor:
        """q (B, T, NH*HS), k, v (B, T, NKV*HS) -> (B, T, NH*HS)"""
        return F.attention(
            *(q, k, v, self.num_heads, self.num_kv_heads),
            causal=True,
            lengths=lengths,
            scale=self.scale,
            dropout_p=self.dropout_p if self.training else 0.0,
            generator=self.generator,
        )


class LlamaMLP(nn.Module):
    """down(silu(gate(x)) * up(x))"""

    def __init__(self, config: LlamaConfig, init: Initializer, name: str):
        C, inner = config.hidden_size, config.intermediate_size
        options = dict(std=config.initializer_range, bias=config.mlp_bias)
        self.gate_proj = nn.Linear(init, f"{name}.gate_proj", C, inner, **options)
        self.up_proj = nn.Linear(init, f"{name}.up_proj", C, inner, **options)
        self.down_proj = nn.Linear(init, f"{name}.down_proj", inner, C, **options)

    def __call__(self, x: Tensor) -> Tensor:
        return self.down_proj(F.swiglu(self.gate_proj(x), self.up_proj(x)))


class LlamaDecoderLayer(nn.Module):
    """Takes the residual stream and what the block before wants added to it; hands on the same pair."""

    def __init__(self, config: LlamaConfig, layer: int, init: Initializer, name: str, generator: Generator):
        self.self_attn = LlamaAttention(config, layer, init, f"{name}.self_attn", generator)
        self.mlp = LlamaMLP(config, init, f"{name}.mlp")
        self.input_layernorm = nn.RMSNorm(init, config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(init, config.hidden_size, config.rms_norm_eps)

    def __call__(
        self,
        residual: Tensor,
        x: Tensor | None,
        rotation: Rotation,
        lengths: _core.Tensor | Documents | None = None,
        past: KVCache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """residual, x (B, T, C); x is None in the first block -> the new (residual, x)"""
        if x is None:
            h = self.input_layernorm(residual)
        else:
            residual, h = self.input_layernorm.after_residual(x, residual)
        x = self.self_attn(h, rotation, lengths, past)
        residual, h = self.post_attention_layernorm.after_residual(x, residual)
        return residual, self.mlp(h)


class LlamaModel(nn.Module):
    """Everything but the head."""

    def __init__(self, config: LlamaConfig, init: Initializer, name: str, generator: Generator):
        C = config.hidden_size
        self.embed_tokens = nn.Embedding(
            init, f"{name}.embed_tokens", config.vocab_size, C, std=config.initializer_range
        )
        self.layers = [
            LlamaDecoderLayer(config, layer, init, f"{name}.layers.{layer}", generator)
            for layer in range(config.num_hidden_layers)
        ]
        self.norm = nn.RMSNorm(init, C, config.rms_norm_eps)
        self.head_dim = config.head_dim
        self.tables = RotaryTables(config.rope_parameters, config.head_dim, config.max_position_embeddings)

    def __call__(
        self,
        ids: _core.Tensor,
        positions: Positions | None,
        lengths: _core.Tensor | Documents | None,
        past: KVCache | None,
        checkpoint_with: Generator | None,
    ) -> Tensor:
        """ids (B, T) -> (B, T, C). With `checkpoint_with` (the dropout generator) blocks are recomputed backward."""
        used, places = (ids.shape[1], None) if positions is None else (positions.count, positions.ids)
        rotation = Rotation(*self.tables(used, ids.device), places, self.head_dim)
        residual = self.embed_tokens(ids)
        residual, x = run_blocks(self.layers, residual, checkpoint_with, rotation, lengths, past)
        return self.norm.after_residual(x, residual)[1]


class LlamaPreTrainedModel(Decoder):
    """What Llama with either head shares."""

    config_class: ClassVar[type[ModelConfig]] = LlamaConfig
    base_model_class: ClassVar[Callable[..., nn.Module]] = LlamaModel
    base_model_prefix: ClassVar[str] = "model"
    config: LlamaConfig
    model: LlamaModel

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens

    def check_length(self, length: int) -> None:
        """As for every decoder, but "dynamic" positions are made for sequences of any length."""
        if self.config.rope_parameters["rope_type"] != "dynamic":
            super().check_length(length)

    def rename(self, weights: Any) -> dict[str, np.ndarray]:
        """Older files carry the frequencies as buffers, and some the tied head twice. A head that this model does not
        have is left out."""
        own = self.state_dict()
        return {
            name: value
            for name, value in weights.items()
            if not name.endswith("rotary_emb.inv_freq") and (name in own or not name.startswith(("lm_head.", "score.")))
        }


class LlamaForCausalLM(LlamaPreTrainedModel, CausalLM):
    """Llama with its language-modelling head.

    Args:
        config: sizes; see `LLAMA_PRESETS`.
        seed: of the initial weights (normal with `initializer_range`) and of the dropout masks.
        dtype: float32 or bfloat16, for weights and activations.
        device: "cpu" or "cuda".
        initialize: False leaves the weights undefined, for a caller who loads them.
    """

    def new_cache(self, batch_size: int, capacity: int) -> KVCache:
        """An empty key/value cache for `capacity` positions of `batch_size` sequences."""
        config = self.config
        width = config.num_key_value_heads * config.head_dim
        return KVCache(config.num_hidden_layers, batch_size, capacity, width, self.dtype, self.device)


class LlamaForSequenceClassification(LlamaPreTrainedModel, DecoderForSequenceClassification):
    """Llama that classifies rows, or gives each a number (`num_labels=1`). Arguments as for `LlamaForCausalLM`."""
