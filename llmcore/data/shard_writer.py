"""Writing token shards: documents in, one file out, in memory that does not grow with it."""

from __future__ import annotations

import os
import tempfile
import zlib
from array import array

import numpy as np

from llmcore.data.atomic import AtomicFile, Commits
from llmcore.data.shard_format import BLOCK_BYTES, HEADER_BYTES, ShardHeader, padding_to_8, token_dtype
from llmcore.errors import DataError


class ShardWriter(Commits):
    """Appends documents to a new shard; the file has its name only after `commit()`.

    `eos_token_id` is written after every document. `tokenizer_fingerprint`: 64 hexadecimal digits
    (`Tokenizer.fingerprint()`). As a context manager it commits at the end and discards on an exception. Raises
    DataError for ids outside the vocabulary.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        vocab_size: int,
        *,
        eos_token_id: int | None = None,
        tokenizer_fingerprint: str | None = None,
    ) -> None:
        if not 0 < vocab_size <= 1 << 32:
            raise DataError(f"a shard needs 1 to 2^32 token ids, got vocab_size={vocab_size}.")
        if eos_token_id is not None and not 0 <= eos_token_id < vocab_size:
            raise DataError(f"eos_token_id={eos_token_id} lies outside the vocabulary of {vocab_size} entries.")
        self.vocab_size = vocab_size
        self.eos_token_id = eos_token_id
        self.tokenizer_fingerprint = tokenizer_fingerprint
        self.token_count = self.document_count = self.byte_count = self.character_count = 0
        self.largest_id = 0
        self._dtype = token_dtype(vocab_size)
        self._end = b"" if eos_token_id is None else np.array([eos_token_id], self._dtype).tobytes()
        self._checksums = array("I")
        self._crc = self._block_fill = 0
        self._file = AtomicFile(path)
        # 8 bytes a document add up (100 million documents are 800 MB), so the index waits on disk; the file has no
        # name.
        self._index = tempfile.TemporaryFile(dir=self._file.path.parent)
        self._file.write(bytes(HEADER_BYTES))

    def add_document(self, ids: np.ndarray, byte_count: int, character_count: int) -> None:
        """Append a document: its ids (any integer dtype, (T,)), and the UTF-8 bytes and characters of its text."""
        if len(ids):
            smallest, largest = int(ids.min()), int(ids.max())
            if smallest < 0 or largest >= self.vocab_size:
                wrong = smallest if smallest < 0 else largest
                raise DataError(f"token id {wrong} lies outside the vocabulary of {self.vocab_size} entries.")
            self.largest_id = max(self.largest_id, largest)
        data = np.ascontiguousarray(ids, self._dtype).tobytes() + self._end
        if not data:
            return
        self._index.write(self.token_count.to_bytes(8, "little"))
        self._append(data)
        self.token_count += len(data) // self._dtype.itemsize
        self.document_count += 1
        self.byte_count += byte_count
        self.character_count += character_count
        if self.eos_token_id is not None:
            self.largest_id = max(self.largest_id, self.eos_token_id)

    def commit(self) -> None:
        """Write index, checksums and header, make the file durable and give it its name."""
        tokens_end = HEADER_BYTES + self.token_count * self._dtype.itemsize
        self._append(padding := padding_to_8(tokens_end))
        self._index.seek(0)
        while block := self._index.read(BLOCK_BYTES):
            self._append(block)
        self._index.close()
        if self._block_fill:
            self._checksums.append(self._crc)
        table = np.array(self._checksums, "<u4").tobytes()
        self._file.write(table)
        checksum_offset = tokens_end + len(padding) + 8 * self.document_count
        header = ShardHeader(
            format="llmcore",
            dtype=self._dtype,
            data_offset=HEADER_BYTES,
            token_count=self.token_count,
            vocab_size=self.vocab_size,
            largest_id=self.largest_id,
            document_count=self.document_count,
            byte_count=self.byte_count,
            character_count=self.character_count,
            eos_token_id=self.eos_token_id,
            tokenizer_fingerprint=self.tokenizer_fingerprint or bytes(32).hex(),
            index_offset=tokens_end + len(padding),
            checksum_offset=checksum_offset,
            file_bytes=checksum_offset + len(table),
            table_crc=zlib.crc32(table),
        )
        self._file.file.seek(0)
        self._file.write(header.pack())
        self._file.commit()

    def discard(self) -> None:
        """Leave no trace. Does nothing after `commit()`."""
        self._index.close()
        self._file.discard()

    def _append(self, data: bytes) -> None:
        """Write `data` and carry the checksum of the block that is being filled."""
        self._file.write(data)
        view = memoryview(data)
        while view:
            part = view[: BLOCK_BYTES - self._block_fill]
            self._crc = zlib.crc32(part, self._crc)
            self._block_fill += len(part)
            if self._block_fill == BLOCK_BYTES:
                self._checksums.append(self._crc)
                self._crc = self._block_fill = 0
            view = view[len(part) :]
