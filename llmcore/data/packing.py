"""Several documents in one row.

Best-fit decreasing: documents by falling length, each into the row with the least room that still holds it (Ding et
al. 2024, arXiv:2404.10830). A document longer than a row is cut into pieces first. `position_ids` start again at 0 with
each piece; models take that as the boundary of what attention sees. The other way is to join everything and cut it into
blocks, in which documents do see one another.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from typing import Any

from llmcore.errors import DataError
from llmcore.labels import IGNORE_INDEX


def pack_documents(documents: Iterable[tuple[list[int], list[int]]], length: int) -> tuple[list[dict[str, Any]], int]:
    """(rows, documents that had to be cut). A document is (input_ids, labels); a row holds at most `length` tokens.

    Each row: `input_ids`, `labels` (-100 at the first token of a document: nothing before it predicts it) and
    `position_ids`. The result depends on the documents and their order alone. Raises DataError if nothing is left.
    """
    pieces: list[tuple[list[int], list[int]]] = []
    cut = 0
    for ids, labels in documents:
        cut += len(ids) > length
        for start in range(0, len(ids), length):
            # a single token predicts nothing
            if len(ids) - start > 1:
                pieces.append((ids[start : start + length], labels[start : start + length]))
    if not pieces:
        raise DataError("no row of the dataset holds two tokens or more")
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room that is left, number of the row), ascending
    for index in sorted(range(len(pieces)), key=lambda number: -len(pieces[number][0])):
        size = len(pieces[index][0])
        found = bisect.bisect_left(rooms, (size, -1))
        if found == len(rooms):
            rows.append([index])
            room, row = length - size, len(rows) - 1
        else:
            room, row = rooms.pop(found)
            rows[row].append(index)
            room -= size
        if room > 1:
            bisect.insort(rooms, (room, row))
    return [_joined([pieces[index] for index in sorted(row)]) for row in rows], cut


def wrap_documents(
    documents: Iterable[tuple[list[int], list[int]]], length: int
) -> tuple[list[dict[str, list[int]]], int]:
    """(blocks of exactly `length` tokens, tokens left over at the end). Raises DataError for less than one block."""
    ids: list[int] = []
    labels: list[int] = []
    for row_ids, row_labels in documents:
        ids += row_ids
        labels += row_labels
    blocks = len(ids) // length
    if blocks == 0:
        raise DataError(f"the dataset holds {len(ids)} tokens, packing needs at least one block of max_length={length}")
    starts = range(0, blocks * length, length)
    rows = [{"input_ids": ids[start : start + length], "labels": labels[start : start + length]} for start in starts]
    return rows, len(ids) - blocks * length


def _joined(documents: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    return {
        "input_ids": [token for ids, _ in documents for token in ids],
        "labels": [label for _, labels in documents for label in (IGNORE_INDEX, *labels[1:])],
        "position_ids": [position for ids, _ in documents for position in range(len(ids))],
    }
