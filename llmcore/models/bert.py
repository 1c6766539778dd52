"""BERT (Devlin et al. 2018, arXiv:1810.04805), with the names of transformers.

An encoder of post-norm blocks: word + position + token type embeddings and a norm, then L times (attention over the
whole row, norm, MLP, norm). Every residual addition is done together with the norm that follows it. Sentence embeddings
are here; what needs a head is in `bert_heads`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from llmcore import _core, nn
from llmcore import functional as F
from llmcore.autograd import Generator, Tensor, checkpoint
from llmcore.errors import ConfigError, DataError
from llmcore.inference import inference
from llmcore.models.activations import ACTIVATIONS, check_activation
from llmcore.models.classification import rows_of
from llmcore.models.config import ModelConfig
from llmcore.models.dimensions import Dimensions
from llmcore.models.inputs import as_ids, key_lengths
from llmcore.models.outputs import EncoderOutput
from llmcore.models.pretrained import PreTrainedModel
from llmcore.nn.layers import Initializer


@dataclasses.dataclass
class BertConfig(ModelConfig):
    """Field names and defaults of transformers' BertConfig; the defaults are BERT-base, uncased."""

    model_type: ClassVar[str] = "bert"
    without_effect: ClassVar[frozenset[str]] = frozenset(["gradient_checkpointing"])
    only_value: ClassVar[dict[str, Any]] = {"is_decoder": False, "position_embedding_type": "absolute"}

    size_fields: ClassVar[dict[str, str]] = {
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "width": "hidden_size",
        "positions": "max_position_embeddings",
    }
    dropout_fields: ClassVar[tuple[str, ...]] = ("hidden_dropout_prob", "attention_probs_dropout_prob")

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    classifier_dropout: float | None = None  # None: hidden_dropout_prob
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        for name in (*sizes, "max_position_embeddings", "type_vocab_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"BertConfig: {name} must be at least 1, got {getattr(self, name)}")
        if self.hidden_size % self.num_attention_heads:
            message = f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads"
            raise ConfigError(f"BertConfig: {message}={self.num_attention_heads}")
        check_activation("BertConfig: hidden_act", self.hidden_act)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise ConfigError(f"BertConfig: {name} must be in [0, 1), got {getattr(self, name)}")
        if not self.tie_word_embeddings:
            raise ConfigError("BertConfig: tie_word_embeddings must be True, as in every published BERT")
        self.check_epsilon("layer_norm_eps")
        super().__post_init__()

    def dimensions(self) -> Dimensions:
        """Sizes of the masked language model. Its head is not counted as multiplied: few tokens are masked."""
        C, L, inner = self.hidden_size, self.num_hidden_layers, self.intermediate_size
        return Dimensions(
            layers=L,
            heads=self.num_attention_heads,
            width=C,
            attention_width=C,
            positions=self.max_position_embeddings,
            matrices=L * (4 * C * C + 2 * C * inner) + C * C,  # and the transformation before the head
            tables=(self.vocab_size + self.max_position_embeddings + self.type_vocab_size) * C,
            vectors=L * (9 * C + inner) + 2 * C + 3 * C + self.vocab_size,  # embeddings' norm; head's norm and biases
            head=0,
            tied=True,
        )


class BertEmbeddings(nn.Module):
    """norm(word + position + token type)"""

    def __init__(self, config: BertConfig, init: Initializer, name: str, generator: Generator):
        C, std = config.hidden_size, config.initializer_range
        self.word_embeddings = nn.Embedding(init, f"{name}.word_embeddings", config.vocab_size, C, std=std)
        self.position_embeddings = nn.Embedding(
            init, f"{name}.position_embeddings", config.max_position_embeddings, C, std=std
        )
        self.token_type_embeddings = nn.Embedding(
            init, f"{name}.token_type_embeddings", config.type_vocab_size, C, std=std
        )
        self.LayerNorm = nn.LayerNorm(init, C, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob, generator)

    def __call__(self, ids: _core.Tensor, positions: _core.Tensor | None, token_types: _core.Tensor) -> Tensor:
        """ids, positions, token_types (B, T) -> (B, T, C)"""
        words = F.token_position_embedding(ids, positions, self.word_embeddings.weight, self.position_embeddings.weight)
        return self.dropout(self.LayerNorm.after_residual(self.token_type_embeddings(token_types), words)[1])


class BertSelfAttention(nn.Module):
    """Every token sees every token of its row that is not padding."""

    def __init__(self, config: BertConfig, init: Initializer, name: str, generator: Generator):
        C, std = config.hidden_size, config.initializer_range
        self.query = nn.Linear(init, f"{name}.query", C, C, std=std)
        self.key = nn.Linear(init, f"{name}.key", C, C, std=std)
        self.value = nn.Linear(init, f"{name}.value", C, C, std=std)
        self.num_heads = config.num_attention_heads
        self.dropout_p, self.generator = config.attention_probs_dropout_prob, generator

    def __call__(self, x: Tensor, lengths: _core.Tensor | None) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        return F.attention(
            *(self.query(x), self.key(x), self.value(x), self.num_heads),
            lengths=lengths,
            dropout_p=self.dropout_p if self.training else 0.0,
            generator=self.generator,
        )


class BertOutput(nn.Module):
    """norm(residual + dropout(dense(x)))"""

    def __init__(self, config: BertConfig, inner: int, init: Initializer, name: str, generator: Generator):
        self.dense = nn.Linear(init, f"{name}.dense", inner, config.hidden_size, std=config.initializer_range)
        self.LayerNorm = nn.LayerNorm(init, config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob, generator)

    def __call__(self, x: Tensor, residual: Tensor) -> Tensor:
        """x (B, T, inner), residual (B, T, C) -> (B, T, C)"""
        return self.after_dense(self.dense(x), residual)

    def after_dense(self, x: Tensor, residual: Tensor) -> Tensor:
        """norm(residual + dropout(x)): x, residual (B, T, C) -> (B, T, C)"""
        return self.LayerNorm.after_residual(self.dropout(x), residual)[1]


class BertAttention(nn.Module):
    """Self-attention with its output projection."""

    def __init__(self, config: BertConfig, init: Initializer, name: str, generator: Generator):
        self.self = BertSelfAttention(config, init, f"{name}.self", generator)
        self.output = BertOutput(config, config.hidden_size, init, f"{name}.output", generator)

    def __call__(self, x: Tensor, lengths: _core.Tensor | None) -> Tensor:
        return self.output(self.self(x, lengths), x)


class BertDense(nn.Module):
    """A linear layer with an activation, which is part of its kernel."""

    def __init__(self, config: BertConfig, outputs: int, activation: str, init: Initializer, name: str):
        std = config.initializer_range
        self.dense = nn.Linear(init, f"{name}.dense", config.hidden_size, outputs, std=std, activation=activation)

    def __call__(self, x: Tensor) -> Tensor:
        return self.dense(x)


class BertLayer(nn.Module):
    """Attention, then the MLP, each followed by a norm over the sum with its input."""

    def __init__(self, config: BertConfig, init: Initializer, name: str, generator: Generator):
        inner, activation = config.intermediate_size, ACTIVATIONS[config.hidden_act]
        self.attention = BertAttention(config, init, f"{name}.attention", generator)
        self.intermediate = BertDense(config, inner, activation, init, f"{name}.intermediate")
        self.output = BertOutput(config, inner, init, f"{name}.output", generator)

    def __call__(self, x: Tensor, lengths: _core.Tensor | None) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        x = self.attention(x, lengths)
        return self.output.after_dense(nn.feed_forward(self.intermediate.dense, self.output.dense, x), x)


class BertEncoder(nn.Module):
    """The layers."""

    def __init__(self, config: BertConfig, init: Initializer, name: str, generator: Generator):
        self.layer = [
            BertLayer(config, init, f"{name}.layer.{index}", generator) for index in range(config.num_hidden_layers)
        ]

    def __call__(self, x: Tensor, lengths: _core.Tensor | None, checkpoint_with: Generator | None) -> list[Tensor]:
        """x (B, T, C) -> x and the output of each layer. With `checkpoint_with` layers are recomputed backward."""
        states = [x]
        for layer in self.layer:
            if checkpoint_with is None:
                x = layer(x, lengths)
            else:
                x = checkpoint(lambda y, layer=layer: layer(y, lengths), x, generator=checkpoint_with)
            states.append(x)
        return states


class BertPreTrainedModel(PreTrainedModel):
    """What the encoder and the models with heads share: reading files of one another."""

    config_class: ClassVar[type[ModelConfig]] = BertConfig
    config: BertConfig

    def rename(self, weights: Any) -> dict[str, np.ndarray]:
        """Files of the encoder alone have no `bert.` prefix; heads that this model does not have are left out; norms
        converted from TensorFlow are called gamma and beta."""
        own = self.state_dict()
        renamed = {}
        for name, value in weights.items():
            plain = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
            base = plain.removeprefix("bert.")
            found = next((known for known in (plain, base, f"bert.{base}") if known in own), None)
            foreign = base.startswith(("cls.", "classifier.", "pooler.")) or base.endswith("embeddings.position_ids")
            if found is not None or not foreign:
                renamed[found or plain] = value
        return renamed

    def first_value(self, name: str) -> _core.Tensor:
        shape = self.state_dict()[name].shape
        init = Initializer(self.generator.seed)
        if len(shape) == 1:
            return init.constant(shape, 1.0 if name.endswith("LayerNorm.weight") else 0.0).data
        return init.normal(name, shape, self.config.initializer_range).data


class BertModel(BertPreTrainedModel):
    """The encoder.

    Args:
        config: sizes and dropout.
        seed: of the initial weights (normal with `initializer_range`) and of the dropout masks.
        dtype: float32 or bfloat16, for weights and activations.
        device: "cpu" or "cuda".
        initialize: False leaves the weights undefined, for a caller who loads them.
        add_pooling_layer: with the layer over the first token that classification heads use.
    """

    new_heads: ClassVar[tuple[str, ...]] = ("pooler.",)

    def __init__(
        self,
        config: BertConfig,
        seed: int = 42,
        dtype: _core.DType = _core.DType.float32,
        device: str = "cpu",
        initialize: bool = True,
        add_pooling_layer: bool = True,
        prefix: str = "",
        generator: Generator | None = None,
    ):
        super().__init__(config, seed)
        self.generator = generator or self.generator  # the whole model draws its masks from one
        init = Initializer(seed if initialize else None, dtype, device)
        self.embeddings = BertEmbeddings(config, init, f"{prefix}embeddings", self.generator)
        self.encoder = BertEncoder(config, init, f"{prefix}encoder", self.generator)
        self.pooler: BertDense | None = None
        if add_pooling_layer:
            self.pooler = BertDense(config, config.hidden_size, "tanh", init, f"{prefix}pooler")

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        output_hidden_states: bool = False,
    ) -> EncoderOutput:
        """One forward pass.

        Args:
            input_ids: (B, T) integers: an array, nested lists or an int32 `_core.Tensor`.
            attention_mask: (B, T) of 1 and 0 with the padding on the right, as tokenizers return it.
            token_type_ids: (B, T), 0 if not given.
            position_ids: (B, T), 0 .. T-1 if not given.
            output_hidden_states: also the embeddings and the output of each layer.
        """
        ids = as_ids(input_ids, self.device)
        B, T = ids.shape
        limit = self.config.max_position_embeddings
        if T > limit:
            raise ConfigError(
                f"{type(self).__name__}: a row of {T} tokens is longer than the model's max_position_embeddings="
                f"{limit}; cut it (truncation=True)"
            )
        types = (
            _core.zeros((B, T), _core.DType.int32, ids.device)
            if token_type_ids is None
            else as_ids(token_type_ids, ids.device)
        )
        positions = None if position_ids is None else as_ids(position_ids, ids.device)
        for name, given in (("token_type_ids", types), ("position_ids", positions)):
            if given is not None and given.shape != ids.shape:
                raise DataError(f"{name} must have the shape of input_ids, {ids.shape}, got {given.shape}")
        lengths = None if attention_mask is None else key_lengths(attention_mask, ids.shape, ids.device)
        recompute = self.generator if self.activation_checkpointing and self.training else None
        states = self.encoder(self.embeddings(ids, positions, types), lengths, recompute)
        pooled = None
        if self.pooler is not None:
            pooled = self.pooler(rows_of(states[-1], np.arange(B) * T))  # (B, C)
        return EncoderOutput(states[-1], pooled, tuple(states) if output_hidden_states else None)

    def sentence_embeddings(
        self, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None, normalize: bool = True
    ) -> Tensor:
        """The mean of the last hidden states of each row's tokens, of length 1 unless `normalize` is False: (B, C).

        As the published sentence encoders do it (Reimers, Gurevych 2019, arXiv:1908.10084). Has gradients.
        """
        x = self(input_ids, attention_mask, token_type_ids).last_hidden_state  # (B, T, C)
        B, T, C = x.shape
        mask = np.ones((B, T), np.float32) if attention_mask is None else np.asarray(attention_mask, np.float32)
        weights = mask / np.maximum(mask.sum(axis=1, keepdims=True), 1e-9)
        mean = F.matmul(Tensor(_core.from_numpy(weights[:, None, :], x.dtype, x.device)), x)  # (B, 1, C)
        mean = F.view(mean, (B, C))
        if not normalize:
            return mean
        # x / sqrt(mean(x^2) + e) / sqrt(C) is x / |x|
        scale = Tensor(_core.from_numpy(np.full(C, 1 / math.sqrt(C), np.float32), x.dtype, x.device))
        return F.rmsnorm(mean, scale, 1e-24)

    def encode(self, texts: str | list[str], batch_size: int = 32, normalize: bool = True) -> np.ndarray:
        """Sentence embeddings of texts with the model's tokenizer: (texts, C) float32, or (C,) for a single string.

        Longer texts are cut to the model's length. Raises ConfigError if there is no tokenizer.
        """
        if self.tokenizer is None:
            raise ConfigError("encode needs a tokenizer: load the model from a folder with one, or set model.tokenizer")
        rows = [texts] if isinstance(texts, str) else list(texts)
        result = np.zeros((len(rows), self.config.hidden_size), np.float32)
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))  # little padding in a batch
        with inference(self):
            for begin in range(0, len(rows), batch_size):
                chosen = order[begin : begin + batch_size]
                batch = self.tokenizer(
                    [rows[index] for index in chosen],
                    padding=True,
                    truncation=True,
                    max_length=self.config.max_position_embeddings,
                    return_tensors="np",
                )
                embeddings = self.sentence_embeddings(batch["input_ids"], batch["attention_mask"], normalize=normalize)
                result[chosen] = embeddings.numpy()
        return result[0] if isinstance(texts, str) else result
