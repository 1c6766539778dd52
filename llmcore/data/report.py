"""What is in the data, said before the first training step: counts, lengths, what is cut or lost, and a sample."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcore.data.loader import BlockDataset
from llmcore.data.readers import ReadStatistics
from llmcore.data.shards import TokenShard
from llmcore.errors import DataError

if TYPE_CHECKING:
    from llmcore.data.tokenizer import Tokenizer

_QUANTILES = {"min": 0.0, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}
_SAMPLE_TOKENS = 64


@dataclass
class SplitReport:
    """One side of the data. `None`: the source does not say."""

    tokens: int
    documents: int | None = None
    bytes: int | None = None
    characters: int | None = None
    length_quantiles: dict[str, int] = field(default_factory=dict)  # tokens per document
    windows: int | None = None  # with a block_size
    dropped_tokens: int | None = None
    documents_cut: int | None = None  # documents longer than a window (they go on in the next), or truncated examples


@dataclass
class DataReport:
    """The numbers behind `render()`. `splits` has "train" and, where there is one, "validation"."""

    splits: dict[str, SplitReport]
    vocab_size: int | None = None
    tokenizer_fingerprint: str | None = None
    block_size: int | None = None
    files: int = 0
    empty_documents: int = 0
    skipped_lines: int = 0
    replaced_characters: int = 0
    notes: list[str] = field(default_factory=list)
    sample: str = ""

    def to_json(self) -> str:
        """All fields, as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> DataReport:
        """The inverse of `to_json`. Raises DataError."""
        try:
            fields = json.loads(text)
            splits = {name: SplitReport(**split) for name, split in fields.pop("splits").items()}
            return cls(splits, **fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"this is not a data report: {error}") from None

    def render(self) -> str:
        """A text for people, several lines."""
        lines = ["Data report"]
        for name, split in self.splits.items():
            lines += [
                f"  {name:<11} {line}" if i == 0 else f"  {'':<11} {line}" for i, line in enumerate(self._lines(split))
            ]
        changed = {
            "characters replaced (invalid UTF-8)": self.replaced_characters,
            "empty documents left out": self.empty_documents,
            "broken lines left out": self.skipped_lines,
        }
        lines += [f"  {count:,} {what}" for what, count in changed.items() if count]
        lines += [f"  {note}" for note in self.notes]
        if self.sample:
            lines += [f"  the first {_SAMPLE_TOKENS} training tokens, decoded:"]
            lines += [f"    | {line}" for line in self.sample.splitlines()]
        return "\n".join(lines)

    def _lines(self, split: SplitReport) -> list[str]:
        counts = [f"{split.tokens:,} tokens"]
        if split.documents is not None:
            counts.insert(0, f"{split.documents:,} documents")
        if split.bytes is not None:
            counts.append(f"{split.bytes:,} bytes ({split.bytes / max(split.tokens, 1):.2f} per token)")
        lines = [", ".join(counts)]
        if split.length_quantiles:
            quantiles = ", ".join(f"{name} {value:,}" for name, value in split.length_quantiles.items())
            lines.append(f"tokens per document: {quantiles}")
        if split.windows is not None:
            lines.append(
                f"{split.windows:,} windows of {self.block_size:,} tokens; {split.dropped_tokens:,} tokens at the end "
                "left out"
            )
        if split.documents_cut is not None and split.documents:
            share = 100 * split.documents_cut / split.documents
            fate = "go on in the next window" if split.windows is not None else "are truncated"
            lines.append(f"{share:.1f} % of the documents are longer than {self.block_size:,} tokens and {fate}")
        return lines


def report_shards(
    shards: Mapping[str, TokenShard],
    tokenizer: Tokenizer | None = None,
    block_size: int | None = None,
    *,
    read: ReadStatistics | None = None,
    notes: Iterable[str] = (),
) -> DataReport:
    """Describe shards by name ("train", "validation"); exact, from their headers and document indices.

    With `block_size` the windows that training will see are counted as well; with a `tokenizer` the report has a
    sample.
    """
    first = next(iter(shards.values()))
    read = read or ReadStatistics()
    return DataReport(
        splits={name: _describe(shard, block_size) for name, shard in shards.items()},
        vocab_size=first.vocab_size if tokenizer is None else tokenizer.vocab_size,
        tokenizer_fingerprint=first.tokenizer_fingerprint,
        block_size=block_size,
        files=read.files,
        empty_documents=read.empty_documents,
        skipped_lines=read.skipped_lines,
        replaced_characters=read.replaced_characters,
        notes=list(notes),
        sample="" if tokenizer is None else tokenizer.decode(first.read(0, min(_SAMPLE_TOKENS, len(first)))),
    )


def report_examples(
    examples: Sequence[Mapping[str, Any]], tokenizer: Tokenizer | None = None, max_length: int | None = None
) -> DataReport:
    """Describe tokenized examples (mappings with `input_ids`), and how many `max_length` truncates."""
    lengths = np.array([len(example["input_ids"]) for example in examples], np.int64)
    split = SplitReport(int(lengths.sum()), len(lengths), length_quantiles=_quantiles(lengths))
    if max_length is not None:
        split.documents_cut = int((lengths > max_length).sum())
    sample = ""
    if tokenizer is not None and len(examples):
        sample = tokenizer.decode(examples[0]["input_ids"][:_SAMPLE_TOKENS])
    vocab_size = None if tokenizer is None else tokenizer.vocab_size
    return DataReport({"train": split}, vocab_size, block_size=max_length, sample=sample)


def _describe(shard: TokenShard, block_size: int | None) -> SplitReport:
    split = SplitReport(len(shard), shard.document_count, shard.byte_count, shard.character_count)
    lengths = shard.document_lengths() if shard.document_count is not None else None
    if lengths is not None:
        split.length_quantiles = _quantiles(lengths)
    if block_size is not None:
        fits = len(shard) >= block_size
        dataset = BlockDataset(shard, block_size) if fits else None
        split.windows = len(dataset) if dataset else 0
        split.dropped_tokens = dataset.dropped_tokens if dataset else len(shard)
        if lengths is not None:
            split.documents_cut = int((lengths > block_size).sum())
    return split


def _quantiles(lengths: np.ndarray) -> dict[str, int]:
    """Nearest-rank quantiles: each is the length of an actual document."""
    if len(lengths) == 0:
        return {}
    ordered = np.sort(lengths)
    return {name: int(ordered[max(int(np.ceil(q * len(ordered))) - 1, 0)]) for name, q in _QUANTILES.items()}
