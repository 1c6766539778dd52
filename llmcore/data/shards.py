"""Reading token shards: llmcore's own (shard_format.py), llm.c's `.bin`, and raw uint16 files as nanoGPT writes them.

Sizes are checked when a shard is opened, and `read()` goes through pread rather than a memory map. Touching a map
beyond the end of a file that somebody truncates kills the process with SIGBUS; pread comes back short, and that
becomes a DataError naming file and offset. The page cache serves both alike: a window of 1,024 tokens costs a few
microseconds either way. `TokenShard.tokens` is a map for looking around; it has the hazard.
"""

from __future__ import annotations

import os
import stat
import zlib
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import numpy as np

from llmcore.data.shard_format import BLOCK_BYTES, LLMC_HEADER_BYTES, ShardHeader, parse_header
from llmcore.errors import DataError

if TYPE_CHECKING:
    from llmcore.data.tokenizer import Tokenizer

Verify = Literal["full", "lazy", "off"]


def open_shard(
    path: str | os.PathLike[str],
    *,
    vocab_size: int | None = None,
    verify: Verify = "lazy",
    tokenizer: Tokenizer | None = None,
) -> TokenShard:
    """Open a shard of any of the three formats.

    `vocab_size`: ids at or above it are refused; a raw uint16 file cannot be opened without. A `tokenizer` stands for
    its vocabulary size, and has to be the one the shard was written with. `verify`: "full" checks every checksum now,
    "lazy" that of a block when it is first read, "off" only sizes and ids. Foreign formats carry no checksums; their
    sizes and ids are checked. Raises DataError.
    """
    if verify not in ("full", "lazy", "off"):
        raise DataError(f"verify must be 'full', 'lazy' or 'off', got {verify!r}.")
    if vocab_size is None and tokenizer is not None:
        vocab_size = tokenizer.vocab_size
    shard = TokenShard(Path(path), vocab_size, verify)
    try:
        _refuse_other_tokenizer(shard, tokenizer)
        if verify == "full":
            shard.verify()
    except DataError:
        shard.close()
        raise
    return shard


def _refuse_other_tokenizer(shard: TokenShard, tokenizer: Tokenizer | None) -> None:
    written_with = shard.tokenizer_fingerprint
    if tokenizer is not None and written_with is not None and written_with != tokenizer.fingerprint():
        raise DataError(
            f"{shard.path} was written with another tokenizer (fingerprint {written_with[:12]}...) than the one given "
            f"({tokenizer.fingerprint()[:12]}...): its ids mean other text. Prepare it again, or load the tokenizer "
            "beside it."
        )


class TokenShard:
    """A read-only token stream on disk. Open it with `open_shard`.

    Attributes: path, header (ShardHeader), and its fields `token_count`, `vocab_size`, `document_count`, `byte_count`,
    `character_count`, `eos_token_id`, `tokenizer_fingerprint`, `dtype`. Safe to read from several threads.
    """

    def __init__(self, path: Path, vocab_size: int | None, verify: Verify) -> None:
        self.path = path
        self._descriptor = _open_regular(path)
        try:
            size = os.fstat(self._descriptor).st_size
            head = os.pread(self._descriptor, LLMC_HEADER_BYTES, 0)
            self.header: ShardHeader = parse_header(head, size, str(path), vocab_size)
            self._id_limit = self.header.vocab_size if vocab_size is None else min(self.header.vocab_size, vocab_size)
            self._checksums = self._read_checksums()
        except BaseException:
            self.close()
            raise
        self.token_count = self.header.token_count
        self.vocab_size = self.header.vocab_size
        self.document_count = self.header.document_count
        self.byte_count = self.header.byte_count
        self.character_count = self.header.character_count
        self.eos_token_id = self.header.eos_token_id
        self.tokenizer_fingerprint = self.header.tokenizer_fingerprint
        self.dtype = self.header.dtype
        self._unverified = bytearray(b"\1" * self.header.block_count) if verify != "off" else bytearray()

    def __len__(self) -> int:
        return self.token_count

    def read(self, start: int, count: int) -> np.ndarray:
        """Tokens `start` to `start + count`, int32 (count,). Raises DataError for damage, IndexError outside."""
        if start < 0 or count < 0 or start + count > self.token_count:
            raise IndexError(f"{self.path}: tokens {start} to {start + count} of {self.token_count}")
        width = self.dtype.itemsize
        offset = self.header.data_offset + start * width
        self._verify_range(offset, offset + count * width)
        ids = np.frombuffer(self._pread(offset, count * width), self.dtype)
        if count and int(ids.max()) >= self._id_limit:
            position = start + int(np.argmax(ids >= self._id_limit))
            raise DataError(
                f"{self.path}: token {position} has the id {int(ids.max())}, outside the vocabulary of "
                f"{self._id_limit} entries: the shard was written with another tokenizer, or altered."
            )
        return ids.astype(np.int32)

    @property
    def tokens(self) -> np.ndarray:
        """All tokens as a read-only memory map, (token_count,), unchecked; see the module's head."""
        if self.token_count == 0:
            return np.empty(0, self.dtype)
        return np.memmap(self.path, self.dtype, "r", self.header.data_offset, (self.token_count,))

    def document_starts(self) -> np.ndarray:
        """The number of each document's first token, int64 (documents,). Raises DataError without an index."""
        if self.document_count is None:
            raise DataError(f"{self.path}: {self.header.format} files have no document index.")
        begin, end = self.header.index_offset, self.header.checksum_offset
        self._verify_range(begin, end)
        starts = np.frombuffer(self._pread(begin, end - begin), "<u8").astype(np.int64)
        if len(starts) and (starts[0] != 0 or starts[-1] >= self.token_count or (np.diff(starts) <= 0).any()):
            raise DataError(f"{self.path}: the document index is not increasing from 0. Prepare the shard again.")
        return starts

    def document_lengths(self) -> np.ndarray:
        """Tokens of each document, its end-of-text token included, int64 (documents,)."""
        return np.diff(self.document_starts(), append=self.token_count)

    def verify(self) -> None:
        """Check every block's checksum and every id now. Raises DataError naming the first damaged block."""
        if self.header.block_count:
            self._unverified = bytearray(b"\1" * self.header.block_count)
            self._verify_range(self.header.data_offset, self.header.checksum_offset)
        step = BLOCK_BYTES // self.dtype.itemsize
        for start in range(0, self.token_count, step):
            self.read(start, min(step, self.token_count - start))
        if self.document_count is not None:
            self.document_starts()

    def close(self) -> None:
        """Close the file; the shard cannot be read afterwards."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _verify_range(self, begin: int, end: int) -> None:
        if not self._unverified or begin == end:
            return
        first = (begin - self.header.data_offset) // BLOCK_BYTES
        last = (end - 1 - self.header.data_offset) // BLOCK_BYTES
        for block in range(first, last + 1):
            if self._unverified[block]:
                offset = self.header.data_offset + block * BLOCK_BYTES
                data = self._pread(offset, min(BLOCK_BYTES, self.header.checksum_offset - offset))
                if zlib.crc32(data) != int(self._checksums[block]):
                    raise DataError(
                        f"{self.path}: block {block} (bytes {offset:,} to {offset + len(data):,}) is damaged: its "
                        "checksum does not match. Prepare the shard again."
                    )
                self._unverified[block] = 0

    def _read_checksums(self) -> np.ndarray:
        count = self.header.block_count
        data = self._pread(self.header.checksum_offset, 4 * count)
        if count and zlib.crc32(data) != self.header.table_crc:
            raise DataError(f"{self.path}: the table of checksums is damaged. Prepare the shard again.")
        return np.frombuffer(data, "<u4")

    def _pread(self, offset: int, count: int) -> bytes:
        if self._descriptor < 0:
            raise DataError(f"{self.path} has been closed.")
        parts = []
        while count:
            try:
                part = os.pread(self._descriptor, count, offset)  # at most 2 GiB at once
            except OSError as error:
                raise DataError(f"{self.path}: reading at byte {offset:,} failed: {error.strerror}.") from error
            if not part:
                raise DataError(f"{self.path} was truncated while it was in use: nothing at byte {offset:,}.")
            parts.append(part)
            offset += len(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def __enter__(self) -> TokenShard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            self.close()

    def __repr__(self) -> str:
        return f"TokenShard({str(self.path)!r}, {self.token_count:,} tokens, vocabulary {self.vocab_size:,})"


def _open_regular(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # non-blocking: a FIFO must not hang
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"{path} is not a regular file; expected a token shard.")
    return descriptor
