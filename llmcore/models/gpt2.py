"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"), with the names of transformers.

A decoder of pre-norm blocks: token + position embeddings, L times (attention, MLP), a last norm, and a head that
shares its weight with the token embedding. Every residual addition is done together with the norm that follows it.
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
from llmcore.models.activations import ACTIVATIONS, check_activation
from llmcore.models.cache import KVCache
from llmcore.models.causal_lm import CausalLM
from llmcore.models.classification import DecoderForSequenceClassification
from llmcore.models.config import ModelConfig
from llmcore.models.decoder import Decoder, run_blocks
from llmcore.models.dimensions import Dimensions
from llmcore.models.inputs import Positions
from llmcore.models.packed import Documents
from llmcore.nn.layers import Initializer


@dataclasses.dataclass
class GPT2Config(ModelConfig):
    """Field names and defaults of transformers' GPT2Config; the defaults are the 124M model."""

    model_type: ClassVar[str] = "gpt2"
    without_effect: ClassVar[frozenset[str]] = frozenset(
        """n_ctx reorder_and_upcast_attn summary_activation summary_first_dropout summary_proj_to_labels summary_type
        summary_use_proj""".split()
    )

    size_fields: ClassVar[dict[str, str]] = {
        "layers": "n_layer",
        "heads": "n_head",
        "width": "n_embd",
        "positions": "n_positions",
    }
    dropout_fields: ClassVar[tuple[str, ...]] = ("resid_pdrop", "embd_pdrop", "attn_pdrop")

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None  # None: 4 * n_embd
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | None = 50256
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            if getattr(self, name) < 1:
                raise ConfigError(f"GPT2Config: {name} must be at least 1, got {getattr(self, name)}")
        if self.n_embd % self.n_head:
            raise ConfigError(f"GPT2Config: n_embd={self.n_embd} must be a multiple of n_head={self.n_head}")
        for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"GPT2Config: {name} must be in [0, 1), got {getattr(self, name)}")
        check_activation("GPT2Config: activation_function", self.activation_function)
        self.check_epsilon("layer_norm_epsilon")
        super().__post_init__()

    def dimensions(self) -> Dimensions:
        """Sizes of the model with its head."""
        C, L, inner = self.n_embd, self.n_layer, self.n_inner or 4 * self.n_embd
        return Dimensions(
            layers=L,
            heads=self.n_head,
            width=C,
            attention_width=C,
            positions=self.n_positions,
            matrices=L * (4 * C * C + 2 * C * inner),  # q k v, output projection, MLP
            tables=(self.vocab_size + self.n_positions) * C,
            vectors=L * (9 * C + inner) + 2 * C,  # five biases and two norms a layer, and the last norm
            head=self.vocab_size * C,
            tied=self.tie_word_embeddings,
        )


# The published sizes, and two small ones for a CPU and for tests. Dropout is off in these: it is for many epochs.
_SMALL = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
PRESETS = {
    "gpt2": GPT2Config(),
    "gpt2-medium": GPT2Config(n_embd=1024, n_layer=24, n_head=16),
    "gpt2-large": GPT2Config(n_embd=1280, n_layer=36, n_head=20),
    "gpt2-xl": GPT2Config(n_embd=1600, n_layer=48, n_head=25),
    "gpt2-mini": GPT2Config(n_positions=256, n_embd=256, n_layer=6, n_head=8, **_SMALL),
    "gpt2-tiny": GPT2Config(n_positions=128, n_embd=128, n_layer=4, n_head=4, **_SMALL),
}


class GPT2Attention(nn.Module):
    """Causal self-attention with the three projections in one matrix."""

    def __init__(self, config: GPT2Config, layer: int, init: Initializer, name: str, generator: Generator):
        C = config.n_embd
        self.c_attn = nn.Conv1D(init, f"{name}.c_attn", C, 3 * C, std=config.initializer_range)
        self.c_proj = nn.Conv1D(init, f"{name}.c_proj", C, C, std=_residual_std(config))
        self.layer, self.num_heads = layer, config.n_head
        self.scale = 1 / math.sqrt(C // config.n_head) if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1
        self.dropout_p, self.generator = config.attn_pdrop, generator

    def __call__(self, x: Tensor, lengths: _core.Tensor | Documents | None, past: KVCache | None) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        qkv = self.c_attn(x)  # (B, T, 3C)
        if past is not None:
            q, k, v = F.split(qkv, [x.shape[-1]] * 3, axis=-1)  # 3 x (B, T, C)
            return self.c_proj(past.attend(self.layer, q, k, v, self.num_heads, self.num_heads, self.scale))
        if isinstance(lengths, Documents):
            return self.c_proj(lengths.attend(self.attend, qkv))
        return self.c_proj(self.attend(qkv, lengths))

    def attend(self, qkv: Tensor, lengths: _core.Tensor | None) -> Tensor:
        """qkv (B, T, 3C) -> (B, T, C)"""
        return F.attention_qkv(
            qkv,
            self.num_heads,
            causal=True,
            lengths=lengths,
            scale=self.scale,
            dropout_p=self.dropout_p if self.training else 0.0,
            generator=self.generator,
        )


class GPT2MLP(nn.Module):
    """Two linear layers with an activation between them, which is part of the first one's kernel."""

    def __init__(self, config: GPT2Config, init: Initializer, name: str):
        C, inner = config.n_embd, config.n_inner or 4 * config.n_embd
        activation = ACTIVATIONS[config.activation_function]
        self.c_fc = nn.Conv1D(init, f"{name}.c_fc", C, inner, std=config.initializer_range, activation=activation)
        self.c_proj = nn.Conv1D(init, f"{name}.c_proj", inner, C, std=_residual_std(config))

    def __call__(self, x: Tensor) -> Tensor:
        return nn.feed_forward(self.c_fc, self.c_proj, x)


class GPT2Block(nn.Module):
    """Takes the residual stream and what the block before wants added to it; hands on the same pair."""

    def __init__(self, config: GPT2Config, layer: int, init: Initializer, name: str, generator: Generator):
        self.ln_1 = nn.LayerNorm(init, config.n_embd, config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, layer, init, f"{name}.attn", generator)
        self.ln_2 = nn.LayerNorm(init, config.n_embd, config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config, init, f"{name}.mlp")
        self.drop = nn.Dropout(config.resid_pdrop, generator)

    def __call__(
        self,
        residual: Tensor,
        x: Tensor | None,
        lengths: _core.Tensor | Documents | None = None,
        past: KVCache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """residual, x (B, T, C); x is None in the first block -> the new (residual, x)"""
        if x is None:
            h = self.ln_1(residual)
        else:
            residual, h = self.ln_1.after_residual(x, residual)
        x = self.drop(self.attn(h, lengths, past))
        residual, h = self.ln_2.after_residual(x, residual)
        return residual, self.drop(self.mlp(h))


class GPT2Model(nn.Module):
    """Everything but the head."""

    def __init__(self, config: GPT2Config, init: Initializer, name: str, generator: Generator):
        C, std = config.n_embd, config.initializer_range
        self.wte = nn.Embedding(init, f"{name}.wte", config.vocab_size, C, std=std)
        self.wpe = nn.Embedding(init, f"{name}.wpe", config.n_positions, C, std=std)
        self.drop = nn.Dropout(config.embd_pdrop, generator)
        self.h = [GPT2Block(config, layer, init, f"{name}.h.{layer}", generator) for layer in range(config.n_layer)]
        self.ln_f = nn.LayerNorm(init, C, config.layer_norm_epsilon)

    def __call__(
        self,
        ids: _core.Tensor,
        positions: Positions | None,
        lengths: _core.Tensor | Documents | None,
        past: KVCache | None,
        checkpoint_with: Generator | None,
    ) -> Tensor:
        """ids (B, T) -> (B, T, C). With `checkpoint_with` (the dropout generator) blocks are recomputed backward."""
        places = None if positions is None else positions.ids
        residual = self.drop(F.token_position_embedding(ids, places, self.wte.weight, self.wpe.weight))
        residual, x = run_blocks(self.h, residual, checkpoint_with, lengths, past)
        return self.ln_f.after_residual(x, residual)[1]


class GPT2PreTrainedModel(Decoder):
    """What GPT-2 with either head shares."""

    config_class: ClassVar[type[ModelConfig]] = GPT2Config
    base_model_class: ClassVar[Callable[..., nn.Module]] = GPT2Model
    base_model_prefix: ClassVar[str] = "transformer"
    limit_field: ClassVar[str] = "n_positions"
    config: GPT2Config
    transformer: GPT2Model

    def get_input_embeddings(self) -> nn.Embedding:
        return self.transformer.wte

    def rename(self, weights: Any) -> dict[str, np.ndarray]:
        """The first publications have no `transformer.` prefix, carry the masks as buffers, the tied head twice. A head
        that this model does not have is left out."""
        own, renamed = self.state_dict(), {}
        for name, value in weights.items():
            if name.startswith(("lm_head.", "score.")):
                if name in own:
                    renamed[name] = value
            elif not name.endswith((".attn.bias", ".attn.masked_bias")):
                renamed[name if name.startswith("transformer.") else f"transformer.{name}"] = value
        return renamed


class GPT2LMHeadModel(GPT2PreTrainedModel, CausalLM):
    """GPT-2 with its language-modelling head.

    Args:
        config: sizes and dropout; see `PRESETS`.
        seed: of the initial weights (GPT-2's published scheme: normal with `initializer_range`, residual projections
            divided by sqrt(2 n_layer), biases 0) and of the dropout masks.
        dtype: float32 or bfloat16, for weights and activations.
        device: "cpu" or "cuda".
        initialize: False leaves the weights undefined, for a caller who loads them.
    """

    def new_cache(self, batch_size: int, capacity: int) -> KVCache:
        """An empty key/value cache for `capacity` positions of `batch_size` sequences."""
        config = self.config
        return KVCache(config.n_layer, batch_size, capacity, config.n_embd, self.dtype, self.device)


class GPT2ForSequenceClassification(GPT2PreTrainedModel, DecoderForSequenceClassification):
    """GPT-2 that classifies rows, or gives each a number (`num_labels=1`). Arguments as for `GPT2LMHeadModel`."""


def _residual_std(config: GPT2Config) -> float:
    """Two projections a layer add to the residual stream; this keeps its variance the same for any depth."""
    return config.initializer_range / math.sqrt(2 * config.n_layer)
