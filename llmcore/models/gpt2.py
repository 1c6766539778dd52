"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"), with the names of transformers.

A decoder of pre-norm blocks: token + position embeddings, L times (attention, MLP), a last norm, and a head that
shares its weight with the token embedding. Every residual addition is done together with the norm that follows it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from llmcore import _core, nn
from llmcore import functional as F
from llmcore.autograd import Generator, Tensor, checkpoint, no_grad
from llmcore.errors import ConfigError
from llmcore.models.cache import KVCache
from llmcore.models.config import ModelConfig
from llmcore.models.inputs import as_ids, key_lengths, next_token_targets, positions_of
from llmcore.models.outputs import CausalLMOutput
from llmcore.models.pretrained import PreTrainedModel
from llmcore.nn.layers import Initializer


@dataclasses.dataclass
class GPT2Config(ModelConfig):
    """Field names and defaults of transformers' GPT2Config; the defaults are the 124M model."""

    model_type: ClassVar[str] = "gpt2"
    without_effect: ClassVar[frozenset[str]] = frozenset(
        """n_ctx reorder_and_upcast_attn summary_activation summary_first_dropout summary_proj_to_labels summary_type
        summary_use_proj""".split()
    )

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
        if self.activation_function not in _ACTIVATIONS:
            raise ConfigError(
                f"GPT2Config: activation_function must be one of {', '.join(_ACTIVATIONS)}, got "
                f"{self.activation_function!r}"
            )


# Hugging Face's name -> the name in functional.linear
_ACTIVATIONS = {
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "tanh": "tanh",
}

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

    def __call__(self, x: Tensor, lengths: _core.Tensor | None, past: KVCache | None) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        qkv = self.c_attn(x)  # (B, T, 3C)
        if past is not None:
            return self.c_proj(self._decode(qkv, past))
        dropout_p = self.dropout_p if self.training else 0.0
        y = F.attention_qkv(
            qkv,
            self.num_heads,
            causal=True,
            lengths=lengths,
            scale=self.scale,
            dropout_p=dropout_p,
            generator=self.generator,
        )  # (B, T, C)
        return self.c_proj(y)

    def _decode(self, qkv: Tensor, past: KVCache) -> Tensor:
        B, T, width = qkv.shape
        q, k, v = (part.data for part in F.split(qkv, [width // 3] * 3, axis=-1))  # 3 x (B, T, C)
        past.write(self.layer, k, v)
        lengths = _core.from_numpy(np.full(B, past.length + T, np.int32))
        y = _core.attention_decode(
            q,
            past.keys[self.layer],
            past.values[self.layer],
            self.num_heads,
            self.num_heads,
            _core.from_numpy(past.starts),
            lengths,
            self.scale,
        )
        return Tensor(y)


class GPT2MLP(nn.Module):
    """Two linear layers with an activation between them, which is part of the first one's kernel."""

    def __init__(self, config: GPT2Config, init: Initializer, name: str):
        C, inner = config.n_embd, config.n_inner or 4 * config.n_embd
        activation = _ACTIVATIONS[config.activation_function]
        self.c_fc = nn.Conv1D(init, f"{name}.c_fc", C, inner, std=config.initializer_range, activation=activation)
        self.c_proj = nn.Conv1D(init, f"{name}.c_proj", inner, C, std=_residual_std(config))

    def __call__(self, x: Tensor) -> Tensor:
        return self.c_proj(self.c_fc(x))


class GPT2Block(nn.Module):
    """Takes the residual stream and what the block before wants added to it; hands on the same pair."""

    def __init__(self, config: GPT2Config, layer: int, init: Initializer, name: str, generator: Generator):
        self.ln_1 = nn.LayerNorm(init, config.n_embd, config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, layer, init, f"{name}.attn", generator)
        self.ln_2 = nn.LayerNorm(init, config.n_embd, config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config, init, f"{name}.mlp")
        self.drop = nn.Dropout(config.resid_pdrop, generator)

    def __call__(
        self, residual: Tensor, x: Tensor | None, lengths: _core.Tensor | None = None, past: KVCache | None = None
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
        positions: _core.Tensor | None,
        lengths: _core.Tensor | None,
        past: KVCache | None,
        checkpoint_with: Generator | None,
    ) -> Tensor:
        """ids (B, T) -> (B, T, C). With `checkpoint_with` (the dropout generator) blocks are recomputed backward."""
        residual = self.drop(F.token_position_embedding(ids, positions, self.wte.weight, self.wpe.weight))
        x: Tensor | None = None
        for block in self.h:
            if checkpoint_with is None:
                residual, x = block(residual, x, lengths, past)
            elif x is None:
                residual, x = checkpoint(lambda r, b=block: b(r, None, lengths), residual, generator=checkpoint_with)
            else:
                residual, x = checkpoint(lambda r, y, b=block: b(r, y, lengths), residual, x, generator=checkpoint_with)
        assert x is not None  # n_layer >= 1
        return self.ln_f.after_residual(x, residual)[1]


class GPT2LMHeadModel(PreTrainedModel):
    """GPT-2 with its language-modelling head.

    Args:
        config: sizes and dropout; see `PRESETS`.
        seed: of the initial weights (GPT-2's published scheme: normal with `initializer_range`, residual projections
        divided
            by sqrt(2 n_layer), biases 0) and of the dropout masks.
        dtype: float32 or bfloat16, for weights and activations.
        device: "cpu".
        initialize: False leaves the weights undefined, for a caller who loads them.
    """

    config_class: ClassVar[type[ModelConfig]] = GPT2Config
    config: GPT2Config

    def __init__(
        self,
        config: GPT2Config,
        seed: int = 42,
        dtype: _core.DType = _core.DType.float32,
        device: str = "cpu",
        initialize: bool = True,
    ):
        super().__init__(config, seed)
        init = Initializer(seed if initialize else None, dtype, device)
        self.transformer = GPT2Model(config, init, "transformer", self.generator)
        self.lm_head: nn.Linear | None = None
        if not config.tie_word_embeddings:
            std = config.initializer_range
            self.lm_head = nn.Linear(init, "lm_head", config.n_embd, config.vocab_size, std=std, bias=False)

    @property
    def head_weight(self) -> nn.Parameter:
        """(V, C)"""
        return self.transformer.wte.weight if self.lm_head is None else self.lm_head.weight

    def __call__(
        self,
        input_ids: Any,
        labels: Any = None,
        *,
        attention_mask: Any = None,
        position_ids: Any = None,
        num_items_in_batch: int | None = None,
        past: KVCache | None = None,
        starts: Any = None,
        return_logits: bool = False,
        logits_to_keep: int = 0,
    ) -> CausalLMOutput:
        """One forward pass.

        Args:
            input_ids: (B, T) integers: an array, nested lists or an int32 `_core.Tensor`.
            labels: (B, T) like input_ids; labels[t + 1] is predicted at t, -100 is not trained on.
            attention_mask: (B, T) of 1 and 0 with the padding on the right, as tokenizers return it.
            position_ids: (B, T); 0 .. T-1 if not given.
            num_items_in_batch: trained tokens of the whole optimizer step, by which the loss is divided (default:
            those of
                this batch). Given in training mode, it also says that `loss.backward()` follows: the head's gradients
                are then computed in the same pass as the loss.
            past: a cache from `new_cache`; the ids continue it and it is extended.
            starts: (B,) with `past`: the first position of each row that is not padding (rows padded on the left).
            return_logits: also with labels.
            logits_to_keep: logits of the last so many positions only; 0 keeps all.

        Returns loss (scalar float32) if labels are given, logits (B, T, V) otherwise.
        """
        ids = as_ids(input_ids, self.device)
        self._check_length(ids.shape[1] + (past.length if past else 0))
        if past is not None:
            past.check_room(ids.shape[1])
            past.starts = past.starts if starts is None else np.asarray(starts, np.int32)
        positions = None if position_ids is None and past is None else positions_of(ids.shape, position_ids, past)
        lengths = None if attention_mask is None else key_lengths(attention_mask, ids.shape)
        recompute = self.generator if self.activation_checkpointing and self.training and past is None else None
        x = self.transformer(ids, positions, lengths, past, recompute)  # (B, T, C)
        if past is not None:
            past.advance(ids.shape[1])
        loss = logits = None
        if labels is not None:
            loss = F.linear_cross_entropy(
                F.view(x, (-1, self.config.n_embd)),
                self.head_weight,
                next_token_targets(labels, ids.shape),
                num_items=num_items_in_batch,
                fused_backward=self.training and num_items_in_batch is not None,
            )
        if labels is None or return_logits:
            if 0 < logits_to_keep < ids.shape[1]:
                x = F.split(x, [ids.shape[1] - logits_to_keep, logits_to_keep], axis=1)[1]  # (B, logits_to_keep, C)
            logits = F.linear(x, self.head_weight)
        return CausalLMOutput(loss=loss, logits=logits)

    def per_token_loss(self, input_ids: Any, labels: Any = None) -> np.ndarray:
        """Negative log-likelihood in nats, (B, T) float32: at t that of labels[t + 1] (default: input_ids), 0 where
        that is -100.

        The logits never exist as a whole. Nothing is recorded, and dropout is off.
        """
        ids = as_ids(input_ids, self.device)
        self._check_length(ids.shape[1])
        training = self.training
        self.eval()
        try:
            with no_grad():
                x = self.transformer(ids, None, None, None, None)
                targets = next_token_targets(input_ids if labels is None else labels, ids.shape)
                rows = x.data.view((-1, self.config.n_embd))
                losses = _core.linear_cross_entropy_per_token(rows, self.head_weight.data, targets, -100)
        finally:
            self.train(training)
        return losses.numpy().reshape(ids.shape)

    def new_cache(self, batch_size: int, capacity: int) -> KVCache:
        """An empty key/value cache for `capacity` positions of `batch_size` sequences."""
        config = self.config
        return KVCache(config.n_layer, batch_size, capacity, config.n_embd, self.dtype, self.device)

    def rename(self, weights: Any) -> dict[str, np.ndarray]:
        """The first publications have no `transformer.` prefix, carry the masks as buffers, the tied head twice."""
        renamed = {}
        for name, value in weights.items():
            if name.endswith((".attn.bias", ".attn.masked_bias")) or (
                name == "lm_head.weight" and self.lm_head is None
            ):
                continue
            plain = name.startswith(("transformer.", "lm_head."))
            renamed[name if plain else f"transformer.{name}"] = value
        return renamed

    def _check_length(self, length: int) -> None:
        if length > self.config.n_positions:
            raise ConfigError(
                f"GPT2LMHeadModel: a sequence of {length} tokens is longer than the model's n_positions="
                f"{self.config.n_positions}; cut it, or train a model with more positions"
            )


def _residual_std(config: GPT2Config) -> float:
    """Two projections a layer add to the residual stream; this keeps its variance the same for any depth."""
    return config.initializer_range / math.sqrt(2 * config.n_layer)
