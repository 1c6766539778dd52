"""Shards: what was written comes back, and nothing that was damaged does (R-05, R-11, R-12)."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pytest

from llmcore.data.shard_format import BLOCK_BYTES, HEADER_BYTES, token_dtype
from llmcore.data.shard_writer import ShardWriter
from llmcore.data.shards import open_shard
from llmcore.data.vocabularies import byte_tokenizer, char_tokenizer
from llmcore.errors import DataError

FINGERPRINT = "ab" * 32


def write(path, documents, vocab_size=1000, **options):
    with ShardWriter(path, vocab_size, tokenizer_fingerprint=FINGERPRINT, **options) as writer:
        for document in documents:
            writer.add_document(
                np.asarray(document, np.int64), byte_count=2 * len(document), character_count=len(document)
            )
    return path


@pytest.fixture
def small(tmp_path):
    return write(tmp_path / "s.bin", [[1, 2, 3], [4], [5, 6]], eos_token_id=9)


def test_round_trip(small):
    with open_shard(small, verify="full") as shard:
        assert shard.read(0, 9).tolist() == [1, 2, 3, 9, 4, 9, 5, 6, 9]
        assert shard.read(3, 2).tolist() == [9, 4] and shard.read(9, 0).tolist() == []
        assert shard.read(0, 1).dtype == np.int32
        assert shard.tokens.tolist() == [1, 2, 3, 9, 4, 9, 5, 6, 9]
        assert shard.document_starts().tolist() == [0, 4, 6]
        assert shard.document_lengths().tolist() == [4, 2, 3]
        assert (len(shard), shard.document_count, shard.byte_count, shard.character_count) == (9, 3, 12, 6)
        assert (shard.vocab_size, shard.eos_token_id, shard.header.largest_id) == (1000, 9, 9)
        assert shard.tokenizer_fingerprint == FINGERPRINT
        with pytest.raises(IndexError):
            shard.read(8, 2)
    with pytest.raises(DataError, match="closed"):
        shard.read(0, 1)


@pytest.mark.parametrize("vocab_size, dtype", [(2, "<u2"), (65536, "<u2"), (65537, "<u4")])
def test_the_narrowest_dtype_and_the_largest_id(tmp_path, vocab_size, dtype):
    shard = open_shard(write(tmp_path / "s.bin", [[0, vocab_size - 1]], vocab_size), verify="full")
    assert shard.dtype == token_dtype(vocab_size) == np.dtype(dtype)
    assert shard.read(0, 2).tolist() == [0, vocab_size - 1]


@pytest.mark.parametrize("documents", [[], [[]], [[7]]])
def test_empty_and_single(tmp_path, documents):
    shard = open_shard(write(tmp_path / "s.bin", documents), verify="full")
    assert len(shard) == sum(map(len, documents)) == len(shard.tokens)
    assert shard.document_lengths().sum() == len(shard)


@pytest.mark.parametrize("tokens", [BLOCK_BYTES // 2 - 1, BLOCK_BYTES // 2, BLOCK_BYTES // 2 + 1, BLOCK_BYTES + 8191])
def test_several_blocks(tmp_path, tokens):
    ids = np.random.default_rng(0).integers(0, 1000, tokens)
    shard = open_shard(write(tmp_path / "s.bin", np.array_split(ids, 7)), verify="full")
    assert np.array_equal(shard.read(0, tokens), ids)
    for start in (0, tokens // 2 - 3, tokens - 5):
        assert np.array_equal(shard.read(start, 5), ids[start : start + 5])
    assert shard.document_lengths().tolist() == [len(part) for part in np.array_split(ids, 7)]


def test_the_same_documents_give_the_same_bytes(tmp_path, small):
    again = write(tmp_path / "again.bin", [[1, 2, 3], [4], [5, 6]], eos_token_id=9)
    assert again.read_bytes() == small.read_bytes()


@pytest.mark.parametrize("ids, message", [([1000], "id 1000"), ([5, -1], "id -1")])
def test_ids_outside_the_vocabulary_are_not_written(tmp_path, ids, message):
    with pytest.raises(DataError, match=message):
        write(tmp_path / "s.bin", [[1], ids])
    assert os.listdir(tmp_path) == []


# ---- damage ----


def refused(path, **options):
    """Whether opening with full verification raises DataError; anything else that it raises fails the test."""
    try:
        open_shard(path, verify="full", **options).close()
    except DataError as error:
        assert str(path) in str(error)
        return True
    return False


def test_every_flipped_bit_is_refused(small):
    original = small.read_bytes()
    for bit in range(8 * len(original)):
        damaged = bytearray(original)
        damaged[bit // 8] ^= 1 << bit % 8
        small.write_bytes(damaged)
        assert refused(small), f"bit {bit % 8} of byte {bit // 8}"


def test_every_truncation_and_any_extension_is_refused(small):
    original = small.read_bytes()
    for length in range(len(original)):
        small.write_bytes(original[:length])
        assert refused(small), length
    small.write_bytes(original + b"\0")
    assert refused(small)


def test_lazy_verification_names_the_block_when_it_is_read(tmp_path):
    ids = np.arange(BLOCK_BYTES) % 1000
    path = write(tmp_path / "s.bin", [ids])
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + BLOCK_BYTES + 10] ^= 1
    path.write_bytes(data)
    shard = open_shard(path)
    assert np.array_equal(shard.read(0, 100), ids[:100])
    with pytest.raises(DataError, match=r"s\.bin: block 1 \(bytes 1,048,832 to"):
        shard.read(BLOCK_BYTES // 2 + 500, 1)
    assert len(open_shard(path, verify="off").read(BLOCK_BYTES // 2, 10)) == 10


def test_truncated_while_in_use_is_an_error_and_no_signal(tmp_path):
    path = write(tmp_path / "s.bin", [np.zeros(BLOCK_BYTES, int)])
    for verify in ("lazy", "off"):
        shard = open_shard(path, verify=verify)
        size = path.stat().st_size
        os.truncate(path, size // 2)
        with pytest.raises(DataError, match="truncated while it was in use"):
            shard.read(BLOCK_BYTES - 100, 100)
        write(path, [np.zeros(BLOCK_BYTES, int)])


def test_replaced_or_deleted_while_in_use_keeps_reading_the_old_one(tmp_path, small):
    shard = open_shard(small)
    write(small, [[8, 8, 8]])
    assert shard.read(0, 3).tolist() == [1, 2, 3]
    small.unlink()
    assert shard.read(3, 2).tolist() == [9, 4]


HEADER_LIES = {
    "token width": (12, "<I", 3),
    "flags": (16, "<Q", 1),
    "token count": (24, "<Q", 2**62),
    "document count": (32, "<Q", 2**61),
    "vocabulary": (56, "<Q", 2**40),
    "empty vocabulary": (56, "<Q", 0),
    "largest id": (64, "<Q", 1000),
    "end of text": (72, "<q", 1000),
    "block bytes": (80, "<Q", 0),
    "index offset": (88, "<Q", 0),
    "checksum offset": (96, "<Q", 2**63),
    "file bytes": (104, "<Q", 1),
    "version": (8, "<I", 2),
}


@pytest.mark.parametrize("lie", HEADER_LIES)
def test_header_lies_with_a_right_checksum_are_refused(small, lie):
    offset, kind, value = HEADER_LIES[lie]
    data = bytearray(small.read_bytes())
    struct.pack_into(kind, data, offset, value)
    struct.pack_into("<I", data, 252, zlib.crc32(data[:252]))
    small.write_bytes(data)
    with pytest.raises(DataError):
        open_shard(small, verify="off")


def test_ids_beyond_the_callers_vocabulary(small):
    assert open_shard(small, vocab_size=10).read(0, 9).max() == 9
    with pytest.raises(DataError, match="ids up to 9, but the vocabulary has 9"):
        open_shard(small, vocab_size=9)


def test_a_lie_about_the_largest_id_is_found_when_reading(small):
    data = bytearray(small.read_bytes())
    struct.pack_into("<Q", data, 64, 5)
    struct.pack_into("<I", data, 252, zlib.crc32(data[:252]))
    small.write_bytes(data)
    shard = open_shard(small, vocab_size=6)
    with pytest.raises(DataError, match="token 3 has the id 9"):
        shard.read(0, 9)


def test_another_tokenizer_than_the_one_it_was_written_with(tmp_path):
    path, tokenizer = tmp_path / "s.bin", byte_tokenizer()
    with ShardWriter(path, 257, tokenizer_fingerprint=tokenizer.fingerprint()) as writer:
        writer.add_document(np.array([1, 2]), 2, 2)
    assert len(open_shard(path, tokenizer=tokenizer)) == 2
    with pytest.raises(DataError, match="written with another tokenizer"):
        open_shard(path, tokenizer=char_tokenizer(["a"]))


# ---- other formats ----


def llmc(path, magic=20240520, version=1, dtype="<u2", ids=(50256, 1, 2), count=None):
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(ids) if count is None else count
    path.write_bytes(header.tobytes() + np.array(ids, dtype).tobytes())
    return path


def test_llmc(tmp_path):
    shard = open_shard(llmc(tmp_path / "gpt2.bin"), verify="full")
    assert shard.read(0, 3).tolist() == [50256, 1, 2] and (shard.vocab_size, shard.header.format) == (50257, "llm.c")
    shard = open_shard(llmc(tmp_path / "llama.bin", 20240801, 7, "<u4", (128000, 5)), verify="full")
    assert shard.read(0, 2).tolist() == [128000, 5] and shard.vocab_size == 128256
    assert shard.document_count is None
    with pytest.raises(DataError, match="no document index"):
        shard.document_starts()


@pytest.mark.parametrize(
    "options", [{"count": 4}, {"count": 2}, {"count": -1}, {"version": 2}, {"version": 7, "dtype": "<u4"}]
)
def test_llmc_that_does_not_fit_its_header(tmp_path, options):
    with pytest.raises(DataError):
        open_shard(llmc(tmp_path / "x.bin", **options))


def test_llmc_ids_are_checked(tmp_path):
    path = llmc(tmp_path / "x.bin", ids=(1, 60000))
    assert open_shard(path).read(0, 1).tolist() == [1]
    with pytest.raises(DataError, match="token 1 has the id 60000"):
        open_shard(path, verify="full")


def test_raw_uint16_needs_a_vocabulary(tmp_path):
    np.array([3, 1, 4, 1, 5], "<u2").tofile(tmp_path / "train.bin")
    with pytest.raises(DataError, match="give vocab_size="):
        open_shard(tmp_path / "train.bin")
    assert open_shard(tmp_path / "train.bin", vocab_size=6, verify="full").read(0, 5).tolist() == [3, 1, 4, 1, 5]
    assert open_shard(tmp_path / "train.bin", tokenizer=byte_tokenizer()).vocab_size == 257
    with pytest.raises(DataError, match="token 4 has the id 5"):
        open_shard(tmp_path / "train.bin", vocab_size=5, verify="full")
    (tmp_path / "train.bin").write_bytes(b"abc")
    with pytest.raises(DataError, match="whole number of uint16"):
        open_shard(tmp_path / "train.bin", vocab_size=6)


def test_not_a_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "missing", "."):
        with pytest.raises(DataError):
            open_shard(tmp_path / name)
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(DataError, match="not a token shard"):
        open_shard(tmp_path / "x.bin")
    with pytest.raises(DataError, match="verify must be"):
        open_shard(tmp_path / "x.bin", verify="never")
