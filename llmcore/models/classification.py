"""Classification of whole rows: the loss that labels ask for, and decoders with a head for it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from llmcore import _core, nn
from llmcore import functional as F
from llmcore.autograd import Tensor
from llmcore.errors import ConfigError, DataError
from llmcore.models.config import ModelConfig
from llmcore.models.decoder import Decoder
from llmcore.models.inputs import as_array, as_ids, key_lengths, positions_of
from llmcore.models.outputs import ClassifierOutput
from llmcore.nn.layers import Initializer


class DecoderForSequenceClassification(Decoder):
    """A decoder whose state at a row's last token is scored: `num_labels` classes, or a number (`num_labels=1`).

    The last token is the rightmost one that is not `config.pad_token_id`, as in transformers.
    """

    new_heads: ClassVar[tuple[str, ...]] = ("score.",)

    def add_head(self, init: Initializer) -> None:
        config: Any = self.config
        width, std = config.dimensions().width, config.initializer_range
        self.score = nn.Linear(init, "score", width, config.num_labels, std=std, bias=False)

    def first_value(self, name: str) -> _core.Tensor:
        std = self.config.initializer_range  # type: ignore[attr-defined]
        return Initializer(self.generator.seed).normal(name, self.state_dict()[name].shape, std).data

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        labels: Any = None,
    ) -> ClassifierOutput:
        """One forward pass.

        Args:
            input_ids: (B, T) integers: an array, nested lists or an int32 `_core.Tensor`.
            attention_mask: (B, T) of 1 and 0 with the padding on the right, as tokenizers return it.
            position_ids: (B, T); 0 .. T-1 if not given.
            labels: (B,) integers; (B,) or (B, num_labels) numbers for regression; (B, num_labels) of 0.0 and 1.0 where
                several labels may hold.

        Raises ConfigError for several rows without a `pad_token_id`.
        """
        ids = as_ids(input_ids, self.device)
        self.check_length(ids.shape[1])
        last = self._last_tokens(as_array(input_ids))
        positions = None if position_ids is None else positions_of(ids.shape, position_ids, None, ids.device)
        lengths = None if attention_mask is None else key_lengths(attention_mask, ids.shape, ids.device)
        recompute = self.generator if self.activation_checkpointing and self.training else None
        x = self.base_model(ids, positions, lengths, None, recompute)  # (B, T, C)
        logits = self.score(rows_of(x, last))  # (B, num_labels)
        loss = None if labels is None else sequence_loss(logits, labels, self.config)
        return ClassifierOutput(loss, logits)

    def _last_tokens(self, ids: np.ndarray) -> np.ndarray:
        """(B,) number of each row's last token, counted through the batch."""
        B, T = ids.shape
        padding = self.config.pad_token_id  # type: ignore[attr-defined]
        if padding is None and B > 1:
            raise ConfigError(
                f"{type(self).__name__}: to find the last token of each of {B} rows the config needs a pad_token_id: "
                "set model.config.pad_token_id = tokenizer.pad_token_id"
            )
        if padding is None:
            return np.array([T - 1])
        columns = np.where(ids != padding, np.arange(T), 0).argmax(axis=1)
        return np.arange(B) * T + columns


def rows_of(x: Tensor, rows: np.ndarray) -> Tensor:
    """Rows of x (B, T, C), counted through the batch: (len(rows), C)."""
    return F.embedding(_core.from_numpy(rows.astype(np.int32), device=x.device), F.view(x, (-1, x.shape[-1])))


def integer_labels(labels: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Labels as int32 of that shape. Raises DataError for another shape or for anything but integers."""
    array = as_array(labels)
    if array.dtype.kind not in "iu":
        raise DataError(f"labels must be integers, got an array of {array.dtype}")
    if array.shape != tuple(shape):
        raise DataError(f"labels must have shape {tuple(shape)}, got {array.shape}")
    return array.astype(np.int32)


def sequence_loss(logits: Tensor, labels: Any, config: ModelConfig) -> Tensor:
    """The loss that `problem_type`, or else the number of labels and their type ask for, as in transformers."""
    array = as_array(labels)
    B, count = logits.shape
    problem = config.problem_type
    if problem is None and count == 1:
        problem = "regression"
    elif problem is None:
        problem = "single_label_classification" if array.dtype.kind in "iu" else "multi_label_classification"
    if problem == "single_label_classification":
        classes = integer_labels(array.reshape(-1), (B,))
        return F.cross_entropy(logits, _core.from_numpy(classes, device=logits.device))
    if array.size != logits.data.numel:
        expected = "(batch,)" if count == 1 else f"(batch, {count})"
        raise DataError(f"labels must have shape {expected} for {problem}, got {array.shape}")
    targets = array.reshape(B, count).astype(np.float32)
    if problem == "regression":
        return F.mse_loss(logits, Tensor(_core.from_numpy(targets, device=logits.device)))
    if not np.isin(targets, (0, 1)).all():
        raise DataError("labels must be 0 or 1 for multi_label_classification; for numbers set problem_type")
    # Binary cross-entropy of x is cross-entropy over the two scores 0 and x.
    scores = F.view(logits, (B * count, 1))
    pairs = F.concat([F.scale(scores, 0.0), scores], axis=1)  # (B*count, 2)
    return F.cross_entropy(pairs, _core.from_numpy(targets.reshape(-1).astype(np.int32), device=logits.device))
