"""Examples -> padded batches, as numpy arrays, under transformers' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcore.data.masking import continuation_table, every_token, mask_tokens, whole_words, words_of, words_of_offsets
from llmcore.data.padding import check_return_tensors, pad_rows, target_length
from llmcore.errors import ConfigError, DataError
from llmcore.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from llmcore.data.tokenizer import Tokenizer


Batch = dict[str, np.ndarray]


def default_data_collator(examples: Sequence[Mapping[str, Any]]) -> Batch:
    """Stack examples of equal lengths; `label` and `label_ids` become `labels`. Strings and None are left out.

    Integers become int32, floats float32. Raises DataError for rows of different lengths.
    """
    batch = {}
    for name in _common_names(examples):
        values = [example[name] for example in examples]
        if any(value is None or isinstance(value, str) for value in values):
            continue
        try:
            array = np.array(values)
        except ValueError:
            lengths = sorted({len(value) for value in values})
            raise DataError(
                f"the field {name!r} has rows of {lengths[0]} to {lengths[-1]} entries, which make no array: use "
                "DataCollatorWithPadding or DataCollatorForLanguageModeling."
            ) from None
        is_label = name in ("label", "label_ids")
        batch["labels" if is_label else name] = array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
    return batch


@dataclass
class DataCollatorWithPadding:
    """Pads `input_ids` and `attention_mask` to the longest of the batch (or `max_length`); stacks everything else."""

    tokenizer: Tokenizer
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "np"

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """`examples`: mappings with `input_ids` of any lengths. Returns int32 arrays, (B, T) and (B,)."""
        check_return_tensors(self.return_tensors)
        sequences, others = _split_fields(examples, ("input_ids", "attention_mask", "token_type_ids"))
        padded = self.tokenizer.pad(
            sequences,
            padding=self.padding,
            max_length=self.max_length,
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_tensors="np",
        )
        return {**padded, **default_data_collator(others)}


@dataclass
class DataCollatorForTokenClassification:
    """Pads `input_ids` and the row of `labels` that goes with them; the padding has `label_pad_token_id`."""

    tokenizer: Tokenizer
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = IGNORE_INDEX
    return_tensors: str = "np"

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """`examples`: mappings with `input_ids` and `labels` (or `label`) of equal length. Returns int32 (B, T)."""
        name = "label" if examples and "label" in examples[0] else "labels"
        rows = [dict(example) for example in examples]
        labels = [list(map(int, row.pop(name))) for row in rows if name in row]
        padding = DataCollatorWithPadding(
            self.tokenizer, self.padding, self.max_length, self.pad_to_multiple_of, self.return_tensors
        )
        batch = padding(rows)
        if not labels:
            return batch
        for row, row_labels in zip(rows, labels, strict=True):
            if len(row["input_ids"]) != len(row_labels):
                raise DataError(
                    f"an example has {len(row['input_ids'])} input_ids but {len(row_labels)} labels: give each token "
                    "one, -100 where none counts."
                )
        length = batch["input_ids"].shape[1]
        padded = pad_rows(labels, self.label_pad_token_id, length, self.tokenizer.padding_side)
        return {**batch, "labels": np.array(padded, np.int32)}


@dataclass
class DataCollatorForLanguageModeling:
    """Pads `input_ids` and adds `labels`.

    With `mlm=True` for a masked language model: a token is drawn with `mlm_probability` (or a whole word, with
    `whole_word_mask`); of those, `mask_replace_prob` become the mask token and `random_replace_prob` any token of the
    vocabulary; the labels are what stood there, -100 elsewhere. None chooses True for a tokenizer with a mask token.
    Words are told apart by the vocabulary's marks, or by the examples' `word_ids` or `offset_mapping`. The masks are a
    function of `seed` and of the place in the run that the trainer tells through `at`; without a trainer, of the
    number of the call.

    With `mlm=False` for a causal model: the ids themselves (unshifted), -100 where padded. Padding is masked by its
    position, never by its id: with `pad_token = eos_token`, which GPT-2 users write, the end-of-text tokens of the
    examples still count, so the model learns to stop. Examples that bring their own `labels` keep them.
    """

    tokenizer: Tokenizer
    mlm: bool | None = None
    whole_word_mask: bool = False
    mlm_probability: float = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    pad_to_multiple_of: int | None = None
    return_tensors: str = "np"
    seed: int | None = None

    columns = frozenset({"special_tokens_mask", "word_ids", "offset_mapping"})  # used here, although no model does

    def __post_init__(self) -> None:
        check_return_tensors(self.return_tensors)
        has_mask = getattr(self.tokenizer, "mask_token", None) is not None
        self.mlm = has_mask if self.mlm is None else self.mlm
        if self.mlm and not has_mask:
            raise ConfigError(
                "mlm=True needs a tokenizer with a mask token, such as BERT's [MASK]; causal models take mlm=False."
            )
        if not 0 < self.mlm_probability < 1:
            raise ConfigError(f"mlm_probability must be between 0 and 1, got {self.mlm_probability}.")
        shares = (self.mask_replace_prob, self.random_replace_prob)
        if min(shares) < 0 or sum(shares) > 1:
            raise ConfigError(
                f"mask_replace_prob and random_replace_prob are parts of 1, got {shares[0]}, {shares[1]}."
            )
        if self.whole_word_mask and not self.mlm:
            raise ConfigError("whole_word_mask=True is for masked language models; write mlm=True.")
        self._place: tuple[int, int] | None = None
        self._calls = 0
        self._continues: np.ndarray | None = None

    def at(self, epoch: int, position: int) -> None:
        """Says where in the run the next batch lies, so that a resumed run draws the same masks."""
        self._place = (epoch, position)

    def __call__(self, examples: Sequence[Mapping[str, Any] | Sequence[int]]) -> Batch:
        """`examples`: mappings with `input_ids`, or bare lists of ids. Returns int32 (B, T) arrays."""
        mappings = [e if isinstance(e, Mapping) else {"input_ids": e} for e in examples]
        return self._masked(mappings) if self.mlm else self._causal(mappings)

    def _causal(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        own = ("input_ids", "attention_mask", "position_ids", "labels")
        dropped = [{name: value for name, value in row.items() if name not in self.columns} for row in examples]
        sequences, others = _split_fields(dropped, own)
        labels = [row.pop("labels", row["input_ids"]) for row in sequences]
        for row, row_labels in zip(sequences, labels, strict=True):
            if len(row_labels) != len(row["input_ids"]):
                raise DataError(f"an example has {len(row['input_ids'])} input_ids but {len(row_labels)} labels.")
        batch = self.tokenizer.pad(sequences, pad_to_multiple_of=self.pad_to_multiple_of, return_tensors="np")
        length = target_length([len(row) for row in labels], "longest", None, self.pad_to_multiple_of)
        padded_labels = pad_rows(labels, IGNORE_INDEX, length, self.tokenizer.padding_side)
        return {**batch, "labels": np.array(padded_labels, np.int32), **default_data_collator(others)}

    def _masked(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        own = ("input_ids", "attention_mask", "token_type_ids", "special_tokens_mask")
        words = [row.get("word_ids") for row in examples]
        offsets = [row.get("offset_mapping") for row in examples]
        unwanted = ("word_ids", "offset_mapping", "labels", "label")
        rows = [{name: value for name, value in row.items() if name not in unwanted} for row in examples]
        sequences, others = _split_fields(rows, own)
        batch = self.tokenizer.pad(sequences, pad_to_multiple_of=self.pad_to_multiple_of, return_tensors="np")
        ids = batch["input_ids"]
        special = batch.pop("special_tokens_mask", None)
        special = np.isin(ids, self.tokenizer.all_special_ids) if special is None else special.astype(bool)
        special |= batch["attention_mask"] == 0
        inputs, labels = mask_tokens(
            *(ids, self._words(ids, special, words, offsets), self.tokenizer, self._random()),
            *(self.mlm_probability, self.mask_replace_prob, self.random_replace_prob),
        )
        return {**batch, "input_ids": inputs, "labels": labels, **default_data_collator(others)}

    def _words(self, ids: np.ndarray, special: np.ndarray, words: list[Any], offsets: list[Any]) -> np.ndarray:
        """(B, T): the number of each token's word, -1 for what is never masked."""
        if not self.whole_word_mask:
            return every_token(ids, special)
        if self.tokenizer.padding_side != "right" and (words[0] is not None or offsets[0] is not None):
            raise ConfigError("word_ids and offset_mapping need padding on the right (padding_side = 'right').")
        if words[0] is not None:
            return np.where(special, -1, np.stack([words_of(row, ids.shape[1]) for row in words]))
        if offsets[0] is not None:
            return np.stack([words_of_offsets(row, mask) for row, mask in zip(offsets, special, strict=True)])
        if self._continues is None:
            self._continues = continuation_table(self.tokenizer)
        return whole_words(ids, special, self._continues)

    def _random(self) -> np.random.Generator:
        place = (0, *self._place) if self._place is not None else (1, self._calls, 0)
        self._place, self._calls = None, self._calls + 1
        return np.random.default_rng([42 if self.seed is None else self.seed, *place])


def _common_names(examples: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(examples[0]) if examples else []
    for number, example in enumerate(examples):
        if set(example) != set(names):
            raise DataError(f"example 0 has the fields {sorted(names)}, example {number} has {sorted(example)}.")
    return names


def _split_fields(
    examples: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The fields that are padded, and the others, of every example."""
    if not examples:
        raise DataError("a batch needs at least one example.")
    for name in _common_names(examples):
        if name == "input_ids":
            break
    else:
        raise DataError(f"the examples have no input_ids, only {sorted(examples[0])}; tokenize the text first.")
    padded = [{name: example[name] for name in names if name in example} for example in examples]
    others = [{name: value for name, value in example.items() if name not in names} for example in examples]
    return padded, others
