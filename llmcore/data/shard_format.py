"""The layout of a token shard, llmcore's own and the two foreign ones that are read. Everything is little-endian.

    bytes 0 .. 255                        header, see _HEADER below
    256 .. 256 + token_count*token_bytes  the tokens, uint16 where the vocabulary has at most 65,536 ids, else uint32
    up to index_offset                    zeros, to a multiple of 8
    index_offset .. checksum_offset       uint64 per document: the number of its first token
    checksum_offset .. file_bytes         uint32 per block: CRC-32 (zlib) of the blocks of 1 MiB from byte 256 on; the
                                          last one is what is left before checksum_offset

Header (offset: type, meaning):

      0: 8 bytes   "llmcore" and a NUL            64: uint64  largest token id (0 if there are no tokens)
      8: uint32    version, 1                     72: int64   id that follows every document, -1 if none
     12: uint32    bytes per token, 2 or 4        80: uint64  bytes per block, 1,048,576
     16: uint64    flags, 0                       88: uint64  index_offset
     24: uint64    token_count                    96: uint64  checksum_offset
     32: uint64    document_count                104: uint64  file_bytes
     40: uint64    UTF-8 bytes of the text       112: 32 bytes  SHA-256 of the tokenizer, zeros if unknown
     48: uint64    characters of the text        144: zeros
     56: uint64    vocabulary size               248: uint32  CRC-32 of the checksum table
                                                 252: uint32  CRC-32 of bytes 0 .. 251

So every byte of the file is under a checksum: the header under its own, the table under the header's, the rest under
the table.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from llmcore.errors import DataError

MAGIC = b"llmcore\0"
HEADER_BYTES = 256
BLOCK_BYTES = 1 << 20
_VERSION = 1
_HEADER = struct.Struct("<8s II Q QQQQ QQ q QQQQ 32s 104x I")

# llm.c (dev/data/data_common.py): 256 int32, then the tokens. The magic number stands for the tokenizer as well.
LLMC_HEADER_BYTES = 1024
LLMC_FORMATS = {  # magic: (version, dtype, vocabulary size)
    20240520: (1, np.dtype("<u2"), 50257),  # GPT-2
    20240801: (7, np.dtype("<u4"), 128256),  # Llama 3
}


def token_dtype(vocab_size: int) -> np.dtype:
    """The narrowest dtype that holds every id of the vocabulary."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


@dataclass(frozen=True)
class ShardHeader:
    """What a shard says of itself; `None` where a foreign format does not say it."""

    format: str  # "llmcore", "llm.c" or "nanogpt"
    dtype: np.dtype
    data_offset: int
    token_count: int
    vocab_size: int
    largest_id: int | None = None
    document_count: int | None = None
    byte_count: int | None = None
    character_count: int | None = None
    eos_token_id: int | None = None
    tokenizer_fingerprint: str | None = None
    index_offset: int = 0
    checksum_offset: int = 0
    file_bytes: int = 0
    table_crc: int = 0

    @property
    def block_count(self) -> int:
        """How many checksums there are; 0 in foreign formats."""
        return -(-(self.checksum_offset - HEADER_BYTES) // BLOCK_BYTES) if self.format == "llmcore" else 0

    def pack(self) -> bytes:
        """The 256 bytes of an llmcore header."""
        body = _HEADER.pack(
            MAGIC, _VERSION, self.dtype.itemsize, 0,
            self.token_count, self.document_count, self.byte_count, self.character_count,
            self.vocab_size, self.largest_id, -1 if self.eos_token_id is None else self.eos_token_id,
            BLOCK_BYTES, self.index_offset, self.checksum_offset, self.file_bytes,
            bytes.fromhex(self.tokenizer_fingerprint or ""), self.table_crc,
        )  # fmt: skip
        return body + struct.pack("<I", zlib.crc32(body))


def parse_header(head: bytes, file_bytes: int, name: str, vocab_size: int | None) -> ShardHeader:
    """Recognise and check a header against the size of its file, before anything else is read or allocated.

    `head`: the first 1024 bytes (fewer in a shorter file). `vocab_size`: what the caller knows; needed for raw uint16
    files. Raises DataError.
    """
    if head[:8] == MAGIC:
        header = _parse_llmcore(head, file_bytes, name)
    elif len(head) >= 12 and struct.unpack_from("<i", head)[0] in LLMC_FORMATS:
        header = _parse_llmc(head, file_bytes, name)
    elif vocab_size is not None:
        header = _raw_uint16(file_bytes, name, vocab_size)
    else:
        raise DataError(
            f"{name} is not a token shard: it begins with {head[:8]!r}, neither llmcore's nor llm.c's header. A raw "
            "uint16 file (nanoGPT) has no header: give vocab_size= as well. Text becomes shards with "
            "llmcore.data.prepare."
        )
    if vocab_size is not None and header.vocab_size > vocab_size and (header.largest_id or 0) >= vocab_size:
        raise DataError(
            f"{name} holds ids up to {header.largest_id}, but the vocabulary has {vocab_size} entries: it was written "
            "with another tokenizer."
        )
    return header


def _parse_llmcore(head: bytes, file_bytes: int, name: str) -> ShardHeader:
    if len(head) < HEADER_BYTES:
        raise DataError(f"{name} is truncated: {file_bytes:,} bytes, less than its header of {HEADER_BYTES}.")
    if zlib.crc32(head[:252]) != struct.unpack_from("<I", head, 252)[0]:
        raise DataError(
            f"{name}: the header (bytes 0 to 255) is damaged: its checksum does not match. Prepare it again."
        )
    fields = _HEADER.unpack_from(head)
    _, version, token_bytes, flags, tokens, documents, text_bytes, characters, vocabulary, largest, eos = fields[:11]
    block_bytes, index_offset, checksum_offset, expected_bytes, tokenizer_hash, table_crc = fields[11:]
    if version != _VERSION or flags != 0:
        raise DataError(
            f"{name}: shard version {version} (flags {flags}) is newer than this llmcore reads ({_VERSION})."
        )
    if expected_bytes != file_bytes:
        state = "truncated" if file_bytes < expected_bytes else "longer than written"
        raise DataError(
            f"{name} is {state}: {file_bytes:,} bytes, but its header says {expected_bytes:,}. Prepare it again."
        )
    header = ShardHeader(
        "llmcore", np.dtype(f"<u{token_bytes}") if token_bytes in (2, 4) else np.dtype("u1"), HEADER_BYTES, tokens,
        vocabulary, largest, documents, text_bytes, characters, None if eos < 0 else eos,
        tokenizer_hash.hex() if any(tokenizer_hash) else None, index_offset, checksum_offset, file_bytes, table_crc,
    )  # fmt: skip
    _refuse_lies(header, token_bytes, block_bytes, name)
    return header


def _refuse_lies(header: ShardHeader, token_bytes: int, block_bytes: int, name: str) -> None:
    """A header with a right checksum can still be made up: all that serves as a size or an offset has to agree."""
    tokens_end = HEADER_BYTES + header.token_count * token_bytes
    rules = {
        "2 or 4 bytes per token": token_bytes in (2, 4),
        "blocks of 1 MiB": block_bytes == BLOCK_BYTES,
        "a vocabulary that fits the token width": 0 < header.vocab_size <= 1 << (8 * token_bytes),
        "a largest id inside the vocabulary": header.largest_id < header.vocab_size,
        "an end-of-text id inside the vocabulary": (header.eos_token_id or 0) < header.vocab_size,
        "no more documents than tokens": header.document_count <= header.token_count,
        "the document index after the tokens": header.index_offset == _align8(tokens_end),
        "the checksums after the index": header.checksum_offset == header.index_offset + 8 * header.document_count,
        "the checksums at the end": header.file_bytes == header.checksum_offset + 4 * header.block_count,
    }
    for rule, holds in rules.items():
        if not holds:
            raise DataError(f"{name}: the header contradicts itself (expected {rule}). Prepare the shard again.")


def _parse_llmc(head: bytes, file_bytes: int, name: str) -> ShardHeader:
    magic, version, count = struct.unpack_from("<iii", head)
    expected_version, dtype, vocab_size = LLMC_FORMATS[magic]
    if version != expected_version:
        raise DataError(
            f"{name}: llm.c data of version {version}; expected {expected_version} with magic number {magic}."
        )
    expected_bytes = LLMC_HEADER_BYTES + count * dtype.itemsize
    if count < 0 or file_bytes != expected_bytes:
        raise DataError(
            f"{name} is truncated or altered: {file_bytes:,} bytes, but its llm.c header says {count:,} tokens, which "
            f"makes {expected_bytes:,}."
        )
    return ShardHeader("llm.c", dtype, LLMC_HEADER_BYTES, count, vocab_size, file_bytes=file_bytes)


def _raw_uint16(file_bytes: int, name: str, vocab_size: int) -> ShardHeader:
    if file_bytes % 2:
        raise DataError(f"{name}: {file_bytes:,} bytes are not a whole number of uint16 tokens; is the file truncated?")
    if not 0 < vocab_size <= 1 << 16:
        raise DataError(
            f"{name}: a file without header holds uint16 tokens; vocab_size={vocab_size} does not fit them."
        )
    return ShardHeader("nanogpt", np.dtype("<u2"), 0, file_bytes // 2, vocab_size, file_bytes=file_bytes)


def _align8(offset: int) -> int:
    return -(-offset // 8) * 8


def padding_to_8(offset: int) -> bytes:
    """The zeros between the tokens and the document index."""
    return bytes(_align8(offset) - offset)
