"""Which documents train and which one validates.

A document's side is decided by a hash of its text, so it stays where it is when data is added, moved or reordered, and
equal documents never land on both sides. Two things only happen in small corpora, and both are said in the report:
fewer than FEW_DOCUMENTS documents are cut into sections first, and where all of them hash to one side the nearest one
changes sides.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator

from llmcore.data.readers import Document, cut_sections

TRAIN, VALIDATION = "train", "validation"

FEW_DOCUMENTS = 20  # below, one document more or less in validation is more than the 5 % that it usually is
_SECTION_SIZES = (32 * 1024, 4096)
_SECTION_SIZES_OF_ONE = (32 * 1024, 4096, 512)


def rank(text: str) -> float:
    """A number in [0, 1) from the text alone; documents below `validation_fraction` validate."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def split_documents(
    documents: Iterable[Document], validation_fraction: float, notes: list[str]
) -> Iterator[tuple[str, Document]]:
    """("train" or "validation", document) for every document, holding back at most a few of them.

    Where there are two different documents or more, both sides get at least one (with a fraction above 0). What was
    done to small corpora is appended to `notes` as sentences.
    """
    if validation_fraction == 0:
        yield from ((TRAIN, document) for document in documents)
        return
    documents = _cut_if_few(iter(documents), notes)
    # As long as one side is empty, the document nearest to the border waits: it may have to change sides at the end.
    first_side, waiting, waiting_distance, copies, given = None, None, 0.0, 0, 0
    for document in documents:
        place = rank(document.text)
        side = VALIDATION if place < validation_fraction else TRAIN
        distance = abs(place - validation_fraction)
        if first_side is None:
            first_side, waiting, waiting_distance, copies = side, document, distance, 1
        elif side != first_side:
            yield from itertools.repeat((first_side, waiting), copies)
            yield side, document
            yield from _by_rank(documents, validation_fraction)
            return
        elif distance == waiting_distance:  # the same text again; it must not end up on both sides
            copies += 1
        elif distance < waiting_distance:
            yield from itertools.repeat((side, waiting), copies)
            given += copies
            waiting, waiting_distance, copies = document, distance, 1
        else:
            yield side, document
            given += 1
    if waiting is None:
        return
    if given == 0:
        notes.append("All text is one document: everything trains, and there is no validation text.")
        yield from itertools.repeat((TRAIN, waiting), copies)
        return
    other = VALIDATION if first_side == TRAIN else TRAIN
    notes.append(f"By its hash every document belonged to {first_side}; {waiting.source} was moved to {other}.")
    yield from itertools.repeat((other, waiting), copies)


def _by_rank(documents: Iterable[Document], validation_fraction: float) -> Iterator[tuple[str, Document]]:
    for document in documents:
        yield (VALIDATION if rank(document.text) < validation_fraction else TRAIN), document


def _cut_if_few(documents: Iterator[Document], notes: list[str]) -> Iterator[Document]:
    """The documents, cut into sections if there are fewer than FEW_DOCUMENTS."""
    head = list(itertools.islice(documents, FEW_DOCUMENTS))
    if len(head) == FEW_DOCUMENTS or not head:
        return itertools.chain(head, documents)
    sections = head
    for size in _SECTION_SIZES_OF_ONE if len(head) == 1 else _SECTION_SIZES:
        sections = [Document(part, d.source) for d in head for part in cut_sections([d.text], size, size)]
        if len(sections) >= FEW_DOCUMENTS:
            break
    if len(sections) > len(head):
        notes.append(
            f"{len(head)} document(s) are few for a split: they were cut at paragraphs into {len(sections)} sections, "
            "so validation text comes from documents that also train."
        )
    return iter(sections)
