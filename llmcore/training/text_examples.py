"""Rows of text to rows of tokens: what lets `Trainer(train_dataset=[{"text": ...}])` work, as TRL's trainer does.

The model's task decides. A causal model learns text, or the completion after a prompt, or what the assistant says in a
conversation; each row ends with the end-of-text token, and that is trained on: a model learns to stop. A masked model
reads text, its collator makes the masks. Classifiers learn the label of a text, or the tag of each word.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcore.data.packing import pack_documents, wrap_documents
from llmcore.data.rows import LABEL_COLUMNS, TEXT_COLUMNS, RowShape, as_number, detect_rows
from llmcore.errors import ConfigError, DataError
from llmcore.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from llmcore.training.arguments import TrainingArguments

Row = dict[str, Any]


@dataclasses.dataclass
class TokenizedRows(Sequence[Row]):
    """Rows with `input_ids` and `labels`, what they were before, and what tokenizing did to them."""

    rows: list[Row]
    truncated: int
    dropped_tokens: int
    shape: RowShape | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]


def is_text(dataset: Any, text_field: str) -> bool:
    """Whether `dataset` is a sequence of rows of text (or of words) without `input_ids`."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or len(dataset) == 0:
        return False
    if isinstance(dataset, Mapping):
        return False
    if hasattr(dataset, "batch") and not hasattr(dataset, "column_names"):  # a token dataset of llmcore.data
        return False
    first = dataset[0]
    if not isinstance(first, Mapping) or "input_ids" in first:
        return False
    names = {text_field, "completion", "messages", "tokens", "words"}
    labelled = any(name in first for name in LABEL_COLUMNS) and any(name in first for name in TEXT_COLUMNS)
    return bool(names & set(first)) or labelled


def tokenize_rows(
    dataset: Any,
    tokenizer: Any,
    args: TrainingArguments,
    context_length: int | None,
    task: str | None = "causal-lm",
    config: Any = None,
) -> TokenizedRows:
    """Tokenizes rows of text for a task, cuts them at `max_length` (or the model's context) or packs them into blocks
    of that length.

    `config` is the model's: its `label2id` numbers labels that are names. Raises DataError for rows that the task
    cannot use, with the number of the row.
    """
    if tokenizer is None:
        raise ConfigError("a dataset of text needs a tokenizer: give processing_class= to the trainer")
    length = min(args.max_length, context_length or args.max_length)
    single = getattr(config, "num_labels", None) == 1
    shape = detect_rows(dataset, args.dataset_text_field, "regression" if single else None)
    if task in ("sequence-classification", "token-classification"):
        rows = _classified(dataset, tokenizer, shape, task, length, config)
        return TokenizedRows(rows, sum(len(row["input_ids"]) == length for row in rows), 0, shape)
    if shape.kind == "words-tags":
        raise DataError("words with tags train a model for token classification: AutoModelForTokenClassification")
    if task == "masked-lm":
        return _masked(dataset, tokenizer, shape, length, args.packing)
    pairs = (_causal(row, tokenizer, args, shape) for row in dataset)
    if args.packing and args.packing_strategy == "wrapped":
        rows, dropped = wrap_documents(pairs, length)
        return TokenizedRows(rows, 0, dropped, shape)
    if args.packing:
        rows, truncated = pack_documents(pairs, length)
        return TokenizedRows(rows, truncated, 0, shape)
    rows, truncated, dropped = [], 0, 0
    for ids, labels in pairs:
        truncated += len(ids) > length
        dropped += max(0, len(ids) - length)
        if len(ids) > 1:  # a single token predicts nothing
            rows.append({"input_ids": ids[:length], "labels": labels[:length]})
    if not rows:
        raise DataError("no row of the dataset holds two tokens or more")
    return TokenizedRows(rows, truncated, dropped, shape)


# ---- causal models ----


def _causal(
    row: Mapping[str, Any], tokenizer: Any, args: TrainingArguments, shape: RowShape
) -> tuple[list[int], list[int]]:
    """(ids, labels) of one row; what is not to be learned has the label -100."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if shape.kind == "prompt-completion":
        prompt = _ids(tokenizer, row["prompt"])
        completion = _ids(tokenizer, row["completion"]) + end
        ids = prompt + completion
        if args.completion_only_loss is False:
            return ids, list(ids)
        return ids, [IGNORE_INDEX] * len(prompt) + completion
    if shape.kind == "messages":
        return _conversation(row["messages"], tokenizer, args.completion_only_loss is not False)
    if args.completion_only_loss:
        raise ConfigError("completion_only_loss=True needs rows with 'prompt' and 'completion', or with 'messages'")
    ids = _ids(tokenizer, row[shape.columns["text"]]) + end
    return ids, list(ids)


def _conversation(
    messages: Sequence[Mapping[str, str]], tokenizer: Any, assistant_only: bool
) -> tuple[list[int], list[int]]:
    """(ids, labels) of a conversation in the model's chat template; learned is what the assistant says."""
    ids: list[int] = []
    labels: list[int] = []
    text = ""
    for number, message in enumerate(messages):
        said = message["role"] == "assistant"
        if said:  # up to where the assistant begins to speak
            text = _append(messages[:number], True, text, tokenizer, ids, labels, not assistant_only)
        text = _append(messages[: number + 1], False, text, tokenizer, ids, labels, said or not assistant_only)
    return ids, labels


def _append(
    messages: Sequence[Mapping[str, str]],
    add_generation_prompt: bool,
    before: str,
    tokenizer: Any,
    ids: list[int],
    labels: list[int],
    learned: bool,
) -> str:
    """Appends the tokens by which the conversation grows over the text `before`; returns its text."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    if not text.startswith(before):
        raise DataError(
            "this chat template changes what was said before when a message is added, so the assistant's part cannot "
            "be told apart; give rows with 'prompt' and 'completion' instead"
        )
    new = np.asarray(tokenizer.encode(text[len(before) :], add_special_tokens=False)).tolist()
    ids += new
    labels += new if learned else [IGNORE_INDEX] * len(new)
    return text


def _ids(tokenizer: Any, text: str) -> list[int]:
    return np.asarray(tokenizer.encode(text)).tolist()


# ---- masked models and classifiers ----


def _masked(dataset: Any, tokenizer: Any, shape: RowShape, length: int, packing: bool) -> TokenizedRows:
    if "text" not in shape.columns:
        raise DataError(f"a masked language model learns from rows of text, not from {shape.render()}")
    name = shape.columns["text"]
    encoded = tokenizer([row[name] for row in dataset], truncation=not packing, max_length=length)
    rows = [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]
    if not packing:
        return TokenizedRows(rows, sum(len(row["input_ids"]) == length for row in rows), 0, shape)
    # as in transformers' example: joined with their special tokens, then cut, so that nothing is padded
    joined = {column: [value for row in rows for value in row[column]] for column in encoded}
    total = len(joined["input_ids"])
    starts = range(0, total - length + 1, length)
    if not starts:
        raise DataError(f"the dataset holds {total} tokens, packing needs at least one block of max_length={length}")
    blocks = [{column: values[start : start + length] for column, values in joined.items()} for start in starts]
    return TokenizedRows(blocks, 0, total - len(blocks) * length, shape)


def _classified(
    dataset: Iterable[Mapping[str, Any]], tokenizer: Any, shape: RowShape, task: str, length: int, config: Any
) -> list[Row]:
    wanted = "words-tags" if task == "token-classification" else "text-label"
    if shape.kind not in (wanted, "text" if wanted == "text-label" else wanted):
        what = "words with a tag each" if wanted == "words-tags" else "text with a label"
        raise DataError(f"this model learns from {what}; the data set has {shape.render()}")
    numbers = _label_numbers(shape, config)
    rows = []
    for row in dataset:
        if wanted == "words-tags":
            words, tags = row[shape.columns["words"]], row[shape.columns["tags"]]
            encoded = tokenizer(list(words), is_split_into_words=True, truncation=True, max_length=length)
            rows.append({**encoded, "labels": _aligned(encoded.word_ids(0), [numbers(tag) for tag in tags])})
            continue
        pair = row[shape.columns["pair"]] if "pair" in shape.columns else None
        encoded = tokenizer(row[shape.columns["text"]], pair, truncation=True, max_length=length)
        label = {"labels": numbers(row[shape.columns["label"]])} if shape.kind == "text-label" else {}
        rows.append({**encoded, **label})
    return rows


def _aligned(word_ids: Sequence[int | None], tags: Sequence[int]) -> list[int]:
    """The tag of a word belongs to its first token; the others, and special tokens, are not trained on."""
    labels, before = [], None
    for word in word_ids:
        labels.append(tags[word] if word is not None and word != before else IGNORE_INDEX)
        before = word
    return labels


def _label_numbers(shape: RowShape, config: Any) -> Any:
    """From a label as it stands in a row to what the model is trained on."""
    if shape.labels is None:
        if shape.span is not None and getattr(config, "num_labels", 1) != 1:
            raise DataError(
                f"the labels are numbers from {shape.span[0]:g} to {shape.span[1]:g}, the model has "
                f"{config.num_labels} classes; for regression load it with num_labels=1"
            )
        return as_number
    known = {str(name): number for name, number in (getattr(config, "label2id", None) or {}).items()}
    count = getattr(config, "num_labels", None) or len(known)
    if set(shape.labels) <= set(known):
        return lambda label: known[shape.labels[shape.label_id(label)]]  # type: ignore[index]
    plain = [int(name) for name in shape.labels if name.isdigit()]
    if len(plain) == len(shape.labels) and max(plain) < count:
        return lambda label: int(as_number(label))  # type: ignore[arg-type]
    raise DataError(
        f"the data has the labels {', '.join(shape.labels[:8])}; the model knows "
        f"{', '.join(list(known)[:8]) or 'none'}: load it with num_labels={len(shape.labels)} and "
        "id2label={0: ..., 1: ...}"
    )
