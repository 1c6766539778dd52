"""What callers give as a prompt -> one list of token ids for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmcore.errors import ConfigError
from llmcore.generation.config import GenerationConfig


def prompt_rows(
    inputs: Any, attention_mask: Any, tokenizer: Any, config: GenerationConfig
) -> tuple[list[list[int]], bool]:
    """The ids of every prompt, without padding, and whether the prompts were text.

    `inputs`: a string, strings, ids of shape (T,) or (B, T), lists of ids of different lengths, or None for the
    beginning of text. `attention_mask` (B, T): 0 marks padding, on whichever side; without a mask all ids count.
    Raises ConfigError for what is none of these.
    """
    if isinstance(inputs, str) or _is_list_of(inputs, str):
        if attention_mask is not None:
            raise ConfigError("attention_mask belongs to token ids; leave it out for prompts that are text")
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        return [_encode(text, tokenizer, config) for text in texts], True
    if inputs is None:
        return [_beginning(tokenizer, config)], False
    rows = _id_rows(inputs)
    if attention_mask is not None:
        masks = [[bool(keep) for keep in mask] for mask in np.atleast_2d(np.asarray(attention_mask))]
        if [len(mask) for mask in masks] != [len(row) for row in rows]:
            raise ConfigError(f"attention_mask has {_shape(masks)} entries, the input ids have {_shape(rows)}")
        rows = [[token for token, keep in zip(*pair, strict=True) if keep] for pair in zip(rows, masks, strict=True)]
    for index, row in enumerate(rows):
        if not row:
            raise ConfigError(f"prompt {index} has no tokens; give at least one, such as the beginning of text")
    return rows, False


def _id_rows(inputs: Any) -> list[list[int]]:
    if hasattr(inputs, "numpy") and not isinstance(inputs, np.ndarray):
        inputs = inputs.numpy()  # tensors, ours and others'
    if isinstance(inputs, Sequence) and any(isinstance(row, (Sequence, np.ndarray)) for row in inputs):
        rows = [np.asarray(row) for row in inputs]  # may differ in length
    else:
        array = np.asarray(inputs)
        rows = list(array) if array.ndim == 2 else [array]
    for row in rows:
        if row.ndim != 1 or (row.size and not np.issubdtype(row.dtype, np.integer)):
            raise ConfigError(
                "a prompt is a string, strings, or integer token ids of shape (T,) or (B, T); got "
                f"{type(inputs).__name__} with entries of type {row.dtype} and shape {row.shape}"
            )
    if not rows:
        raise ConfigError("there is no prompt: the list is empty")
    return [row.tolist() for row in rows]


def _encode(text: str, tokenizer: Any, config: GenerationConfig) -> list[int]:
    if tokenizer is None:
        raise ConfigError(
            "a prompt that is text needs a tokenizer: pass tokenizer=..., set model.tokenizer, or give token ids"
        )
    ids = [int(token) for token in tokenizer.encode(text)]
    return ids or _beginning(tokenizer, config)


def _beginning(tokenizer: Any, config: GenerationConfig) -> list[int]:
    """Where a text starts: the beginning-of-text token, or the end of the text before it."""
    candidates = [config.bos_token_id, getattr(tokenizer, "bos_token_id", None), *config.eos_token_ids]
    candidates.append(getattr(tokenizer, "eos_token_id", None))
    for token in candidates:
        if token is not None:
            return [token]
    raise ConfigError("the prompt is empty, and no bos_token_id or eos_token_id is known to begin with; give a prompt")


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, kind) for item in value)


def _shape(rows: list[list[Any]]) -> str:
    lengths = [len(row) for row in rows]
    return f"{len(rows)} x {lengths[0]}" if len(set(lengths)) == 1 else f"{len(rows)} rows of {lengths}"
