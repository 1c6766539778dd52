"""BERT's heads: masked language modelling, classification of sequences (or regression) and of tokens."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from llmcore import _core, nn
from llmcore import functional as F
from llmcore.autograd import Generator, Tensor
from llmcore.labels import IGNORE_INDEX
from llmcore.models.activations import ACTIVATIONS
from llmcore.models.bert import BertConfig, BertDense, BertModel, BertPreTrainedModel
from llmcore.models.classification import integer_labels, rows_of, sequence_loss
from llmcore.models.outputs import ClassifierOutput, EncoderOutput, MaskedLMOutput
from llmcore.nn.layers import Initializer


class _BertWithHead(BertPreTrainedModel):
    """The encoder as `bert`, and the dropout generator and checkpointing of both as one."""

    pooled: ClassVar[bool] = False

    def __init__(
        self,
        config: BertConfig,
        seed: int = 42,
        dtype: _core.DType = _core.DType.float32,
        device: str = "cpu",
        initialize: bool = True,
    ):
        super().__init__(config, seed)
        self.bert = BertModel(config, seed, dtype, device, initialize, self.pooled, "bert.", self.generator)
        self.add_head(Initializer(seed if initialize else None, dtype, device))

    def add_head(self, init: Initializer) -> None:
        raise NotImplementedError

    def encode_rows(self, input_ids: Any, attention_mask: Any, token_type_ids: Any, position_ids: Any) -> EncoderOutput:
        self.bert.activation_checkpointing = self.activation_checkpointing
        return self.bert(input_ids, attention_mask, token_type_ids, position_ids)


class BertPredictionHead(nn.Module):
    """What stands between the encoder and the scores of the words; the words' vectors are the embedding's."""

    def __init__(self, config: BertConfig, init: Initializer, name: str):
        activation = ACTIVATIONS[config.hidden_act]
        self.transform = BertDense(config, config.hidden_size, activation, init, f"{name}.transform")
        self.transform.LayerNorm = nn.LayerNorm(init, config.hidden_size, config.layer_norm_eps)
        self.bias = init.constant((config.vocab_size,), 0.0)

    def __call__(self, x: Tensor, words: nn.Parameter) -> Tensor:
        """x (N, C), words (V, C) -> (N, V)"""
        return F.linear(self.transform.LayerNorm(self.transform(x)), words, self.bias)


class BertOnlyMLMHead(nn.Module):
    """A name in the published files."""

    def __init__(self, config: BertConfig, init: Initializer, name: str):
        self.predictions = BertPredictionHead(config, init, f"{name}.predictions")


class BertForMaskedLM(_BertWithHead):
    """BERT that predicts the words behind masks. Arguments as for `BertModel`."""

    new_heads: ClassVar[tuple[str, ...]] = ("cls.",)

    def add_head(self, init: Initializer) -> None:
        self.cls = BertOnlyMLMHead(self.config, init, "cls")

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        labels: Any = None,
        return_logits: bool = False,
    ) -> MaskedLMOutput:
        """Inputs as for `BertModel`. labels (B, T): the id at each place that is predicted, -100 elsewhere.

        With labels, scores are computed at the predicted places alone; the logits of all come with `return_logits`, or
        where there are no labels.
        """
        x = self.encode_rows(input_ids, attention_mask, token_type_ids, position_ids).last_hidden_state
        B, T, C = x.shape
        words = self.bert.embeddings.word_embeddings.weight
        loss = logits = None
        if labels is not None:
            targets = integer_labels(labels, (B, T)).reshape(-1)
            rows = np.flatnonzero(targets != IGNORE_INDEX)
            scores = self.cls.predictions(rows_of(x, rows), words)  # (predicted, V)
            loss = F.cross_entropy(scores, _core.from_numpy(targets[rows], device=x.device))
        if labels is None or return_logits:
            logits = F.view(self.cls.predictions(F.view(x, (B * T, C)), words), (B, T, -1))
        return MaskedLMOutput(loss, logits)


class BertForSequenceClassification(_BertWithHead):
    """BERT that classifies rows, or gives each a number (`num_labels=1`). Arguments as for `BertModel`."""

    pooled: ClassVar[bool] = True
    new_heads: ClassVar[tuple[str, ...]] = ("classifier.", "bert.pooler.")

    def add_head(self, init: Initializer) -> None:
        self.dropout, self.classifier = _classifier(self.config, init, self.generator)

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        labels: Any = None,
    ) -> ClassifierOutput:
        """Inputs as for `BertModel`. labels: (B,) integers; (B,) or (B, num_labels) numbers for regression; (B,
        num_labels) of 0.0 and 1.0 where several labels may hold."""
        pooled = self.encode_rows(input_ids, attention_mask, token_type_ids, position_ids).pooler_output
        logits = self.classifier(self.dropout(pooled))  # (B, num_labels)
        loss = None if labels is None else sequence_loss(logits, labels, self.config)
        return ClassifierOutput(loss, logits)


class BertForTokenClassification(_BertWithHead):
    """BERT that classifies tokens. Arguments as for `BertModel`."""

    new_heads: ClassVar[tuple[str, ...]] = ("classifier.",)

    def add_head(self, init: Initializer) -> None:
        self.dropout, self.classifier = _classifier(self.config, init, self.generator)

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        labels: Any = None,
    ) -> ClassifierOutput:
        """Inputs as for `BertModel`. labels (B, T) integers, -100 where a token does not count."""
        x = self.encode_rows(input_ids, attention_mask, token_type_ids, position_ids).last_hidden_state
        logits = self.classifier(self.dropout(x))  # (B, T, num_labels)
        loss = None
        if labels is not None:
            targets = integer_labels(labels, x.shape[:2])
            loss = F.cross_entropy(logits, _core.from_numpy(targets, device=x.device))
        return ClassifierOutput(loss, logits)


def _classifier(config: BertConfig, init: Initializer, generator: Generator) -> tuple[nn.Dropout, nn.Linear]:
    p = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
    linear = nn.Linear(init, "classifier", config.hidden_size, config.num_labels, std=config.initializer_range)
    return nn.Dropout(p, generator), linear
