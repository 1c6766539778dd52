"""The report's numbers are exact."""

from __future__ import annotations

import numpy as np
import pytest

from llmcore.data.readers import ReadStatistics
from llmcore.data.report import DataReport, report_examples, report_shards
from llmcore.data.shard_writer import ShardWriter
from llmcore.data.shards import open_shard
from llmcore.data.vocabularies import byte_tokenizer
from llmcore.errors import DataError


@pytest.fixture
def shard(tmp_path):
    with ShardWriter(tmp_path / "train.bin", 257, eos_token_id=256) as writer:
        for length in (5, 1, 20, 9):
            writer.add_document(np.full(length, 97), length, length)
    return open_shard(tmp_path / "train.bin")  # lengths with the end: 6, 2, 21, 10


def test_numbers(shard):
    report = report_shards(
        {"train": shard}, byte_tokenizer(), block_size=8, read=ReadStatistics(1, 2, 3, 4), notes=["note"]
    )
    split = report.splits["train"]
    assert (split.documents, split.tokens, split.bytes, split.characters) == (4, 39, 35, 35)
    assert split.length_quantiles == {"min": 2, "25%": 2, "median": 6, "75%": 10, "95%": 21, "max": 21}
    assert (split.windows, split.dropped_tokens, split.documents_cut) == (5, 3, 2)  # 38 predictions = 5 * 7 + 3
    assert (report.files, report.replaced_characters, report.skipped_lines, report.empty_documents) == (1, 2, 3, 4)
    assert report.sample == "aaaaa<|endoftext|>a<|endoftext|>" + "a" * 20 + "<|endoftext|>" + "a" * 9 + "<|endoftext|>"


def test_render_says_it_all(shard):
    text = report_shards(
        {"train": shard}, byte_tokenizer(), 8, read=ReadStatistics(1, 2, 3, 4), notes=["A note."]
    ).render()
    for part in (
        "4 documents, 39 tokens, 35 bytes (0.90 per token)",
        "median 6",
        "5 windows of 8 tokens; 3 tokens at the end left out",
        "50.0 % of the documents are longer than 8 tokens and go on in the next window",
        "2 characters replaced",
        "4 empty documents",
        "3 broken lines",
        "A note.",
        "| aaaaa<|endoftext|>",
    ):
        assert part in text, part


def test_json_round_trip(shard):
    report = report_shards({"train": shard}, byte_tokenizer(), 8)
    assert DataReport.from_json(report.to_json()) == report
    for broken in ("", "[]", "{}", '{"splits": {"train": {"unknown": 1}}}'):
        with pytest.raises(DataError):
            DataReport.from_json(broken)


def test_a_shard_smaller_than_a_window(shard):
    split = report_shards({"validation": shard}, block_size=100).splits["validation"]
    assert (split.windows, split.dropped_tokens) == (0, 39)


def test_a_shard_of_a_foreign_format(tmp_path):
    np.array([1, 2, 3], "<u2").tofile(tmp_path / "raw.bin")
    report = report_shards({"train": open_shard(tmp_path / "raw.bin", vocab_size=10)}, block_size=2)
    assert (report.splits["train"].tokens, report.splits["train"].documents, report.splits["train"].windows) == (
        3,
        None,
        2,
    )
    assert "3 tokens" in report.render()


def test_examples():
    examples = [{"input_ids": list(range(97, 97 + n))} for n in (1, 5, 3)]
    report = report_examples(examples, byte_tokenizer(), max_length=3)
    split = report.splits["train"]
    assert (split.documents, split.tokens, split.documents_cut, report.sample) == (3, 9, 1, "a")
    assert "33.3 % of the documents are longer than 3 tokens and are truncated" in report.render()
