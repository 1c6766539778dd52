"""What decoders with a language-modelling head share: the forward pass around the blocks, the losses."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from llmcore import _core, nn
from llmcore import functional as F
from llmcore.autograd import Tensor
from llmcore.generation import GenerationConfig, GenerationMixin
from llmcore.inference import inference
from llmcore.labels import IGNORE_INDEX
from llmcore.models.cache import KVCache
from llmcore.models.decoder import Decoder
from llmcore.models.inputs import (
    DeviceBatch,
    Positions,
    as_array,
    as_ids,
    key_lengths,
    next_token_targets,
    positions_of,
)
from llmcore.models.outputs import CausalLMOutput
from llmcore.models.packed import Documents, find_documents
from llmcore.models.pretrained import Model
from llmcore.nn.layers import Initializer


class CausalLM(Decoder, GenerationMixin):
    """A decoder that predicts tokens. A subclass has `new_cache`."""

    lm_head: nn.Linear | None  # None where the head's weight is the token embedding's

    def add_head(self, init: Initializer) -> None:
        config: Any = self.config
        self.lm_head = None
        if not config.tie_word_embeddings:
            width, std = config.dimensions().width, config.initializer_range
            self.lm_head = nn.Linear(init, "lm_head", width, config.vocab_size, std=std, bias=False)

    @functools.cached_property
    def generation_config(self) -> GenerationConfig:
        """What `generate` does unless a call says otherwise; it travels in generation_config.json."""
        return GenerationConfig.from_model_config(self.config)

    @classmethod
    def from_pretrained(cls: type[Model], directory: str | Path, *arguments: Any, **options: Any) -> Model:
        """As for every model; reads generation_config.json, too, if there is one."""
        model = super().from_pretrained(directory, *arguments, **options)
        if (Path(directory) / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(directory)
        return model

    def save_config(self, directory: str | Path) -> None:
        """The files beside the weights: config.json and generation_config.json."""
        super().save_config(directory)
        self.generation_config.save_pretrained(directory)

    @property
    def head_weight(self) -> Tensor:
        """(V, C)"""
        return self.get_input_embeddings().weight if self.lm_head is None else self.lm_head.combined_weight()

    def new_cache(self, batch_size: int, capacity: int) -> KVCache:
        """An empty key/value cache for `capacity` positions of `batch_size` sequences."""
        raise NotImplementedError

    def __call__(
        self,
        input_ids: Any,
        labels: Any = None,
        *,
        attention_mask: Any = None,
        position_ids: Any = None,
        num_items_in_batch: int | None = None,
        label_smoothing: float = 0.0,
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
            position_ids: (B, T); 0 .. T-1 if not given. Where they start again at 0 inside a row, another document
                begins, and attention sees each document by itself.
            num_items_in_batch: trained tokens of the whole optimizer step, by which the loss is divided (default:
                those of this batch). Given in training mode, it also says that `loss.backward()` follows: the head's
                gradients are then computed in the same pass as the loss.
            label_smoothing: part of each target that is spread evenly over the vocabulary.
            past: a cache from `new_cache`; the ids continue it and it is extended.
            starts: (B,) with `past`: the first position of each row that is not padding (rows padded on the left).
            return_logits: also with labels.
            logits_to_keep: logits of the last so many positions only; 0 keeps all.

        Returns loss (scalar float32) if labels are given, logits (B, T, V) otherwise.
        """
        if past is not None:
            past.starts = past.starts if starts is None else np.asarray(starts, np.int32)
        ids, positions, lengths = self._inputs(input_ids, attention_mask, position_ids, past)
        x = self._states(ids, positions, lengths, past)  # (B, T, C)
        if past is not None:
            past.advance(ids.shape[1])
        loss = logits = None
        if labels is not None:
            loss = self._loss(x, next_token_targets(labels, ids.shape, ids.device), num_items_in_batch, label_smoothing)
        if labels is None or return_logits:
            if 0 < logits_to_keep < ids.shape[1]:
                x = F.split(x, [ids.shape[1] - logits_to_keep, logits_to_keep], axis=1)[1]  # (B, logits_to_keep, C)
            logits = F.linear(x, self.head_weight)
        return CausalLMOutput(loss=loss, logits=logits)

    def device_batch(
        self,
        input_ids: Any,
        labels: Any,
        *,
        attention_mask: Any = None,
        position_ids: Any = None,
        num_items_in_batch: int | None = None,
        label_smoothing: float = 0.0,
    ) -> DeviceBatch | None:
        """The host's part of a training step: arguments as for a call, brought to the device for `loss_of`. None for
        rows of several documents, whose computation is another one in each batch.
        """
        ids, positions, lengths = self._inputs(input_ids, attention_mask, position_ids, None)
        if isinstance(lengths, Documents):
            return None
        tensors = {"input_ids": ids, "targets": next_token_targets(labels, ids.shape, ids.device)}
        if positions is not None:
            tensors["positions"] = positions.ids
        if lengths is not None:
            tensors["lengths"] = lengths
        facts = {"num_items_in_batch": num_items_in_batch, "label_smoothing": label_smoothing}
        return DeviceBatch(tensors, {**facts, "positions": positions and positions.count})

    def loss_of(self, batch: DeviceBatch) -> Tensor:
        """The device's part of a training step: what a call with labels gives as the loss, without a word of the host's
        memory."""
        tensors, facts = batch.tensors, batch.facts
        positions = Positions(tensors["positions"], facts["positions"]) if "positions" in tensors else None
        x = self._states(tensors["input_ids"], positions, tensors.get("lengths"), None)
        return self._loss(x, tensors["targets"], facts["num_items_in_batch"], facts["label_smoothing"])

    def _inputs(
        self, input_ids: Any, attention_mask: Any, position_ids: Any, past: KVCache | None
    ) -> tuple[_core.Tensor, Positions | None, _core.Tensor | Documents | None]:
        """Ids, positions and lengths (or documents) as `base_model` takes them."""
        ids = as_ids(input_ids, self.device)
        self.check_length(ids.shape[1] + (past.length if past else 0))
        if past is not None:
            past.check_room(ids.shape[1])
        positions = None
        if position_ids is not None or past is not None:
            positions = positions_of(ids.shape, position_ids, past, ids.device)
        lengths: Any = None if attention_mask is None else key_lengths(attention_mask, ids.shape, ids.device)
        if position_ids is not None and past is None:
            mask = None if attention_mask is None else as_array(attention_mask)
            lengths = find_documents(as_array(position_ids), mask, ids.device) or lengths
        return ids, positions, lengths

    def _states(
        self,
        ids: _core.Tensor,
        positions: Positions | None,
        lengths: _core.Tensor | Documents | None,
        past: KVCache | None,
    ) -> Tensor:
        recompute = self.generator if self.activation_checkpointing and self.training and past is None else None
        return self.base_model(ids, positions, lengths, past, recompute)

    def _loss(self, x: Tensor, targets: _core.Tensor, num_items: int | None, label_smoothing: float) -> Tensor:
        return F.linear_cross_entropy(
            F.view(x, (-1, x.shape[-1])),
            self.head_weight,
            targets,
            label_smoothing=label_smoothing,
            num_items=num_items,
            fused_backward=self.training and num_items is not None,
        )

    def per_token_loss(self, input_ids: Any, labels: Any = None) -> np.ndarray:
        """Negative log-likelihood in nats, (B, T) float32: at t that of labels[t + 1] (default: input_ids), 0 where
        that is -100.

        The logits never exist as a whole. Nothing is recorded, and dropout is off.
        """
        ids = as_ids(input_ids, self.device)
        self.check_length(ids.shape[1])
        with inference(self):
            x = self.base_model(ids, None, None, None, None)
            targets = next_token_targets(input_ids if labels is None else labels, ids.shape, ids.device)
            rows = x.data.view((-1, x.shape[-1]))
            losses = _core.linear_cross_entropy_per_token(rows, self.head_weight.data, targets, IGNORE_INDEX)
        return losses.numpy().reshape(ids.shape)
