"""Which documents train and which one validates.

A document's side is decided by a hash of its text, so it stays where it is when data is added, moved or reordered, and
equal documents never land on both sides. Nor do near-duplicates, where the caller has looked for them: a group of them
has the place of one of its members, which another seldom becomes when the group grows. Three things are said in the
report: groups so large that they cannot be kept together; fewer than FEW_DOCUMENTS documents are cut into sections
first; and where all of them hash to one side the nearest one changes sides.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping

from llmcore.data.near_duplicates import near_duplicate_groups
from llmcore.data.readers import Document, cut_sections

TRAIN, VALIDATION = "train", "validation"

FEW_DOCUMENTS = 20  # below, one document more or less in validation is more than the 5 % that it usually is
_SECTION_SIZES = (32 * 1024, 4096)
_SECTION_SIZES_OF_ONE = (32 * 1024, 4096, 512)


def rank(text: str) -> float:
    """A number in [0, 1) from the text alone; documents below `validation_fraction` validate."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def places_of_near_duplicates(
    texts: Iterable[str], validation_fraction: float, notes: list[str], noun: str = "documents"
) -> dict[float, float]:
    """The place of each text that has near-duplicates, by its `rank`; the others' is their rank. Reads `texts` once.

    A group larger than what is to validate trains. One of more than half of all texts, as in a corpus of filled-in
    forms, is not kept together. What was found is appended to `notes` as a sentence about so many `noun`.
    """
    ranks: list[float] = []

    def ranked() -> Iterator[str]:
        for text in texts:
            ranks.append(rank(text))
            yield text

    places: dict[float, float] = {}
    kept = loose = groups = 0
    for numbers in near_duplicate_groups(ranked()):
        members = {ranks[number] for number in numbers}
        if len(members) == 1:  # equal texts, which have one place anyway
            continue
        if 2 * len(numbers) > len(ranks) >= FEW_DOCUMENTS:
            loose += len(numbers)
            continue
        groups, kept = groups + 1, kept + len(numbers)
        place = min(members, key=lambda member: hashlib.blake2b(str(member).encode(), digest_size=8).digest())
        if len(numbers) > validation_fraction * len(ranks):
            place = max(place, validation_fraction)
        places |= dict.fromkeys(members, place)
    if groups:
        notes.append(
            f"{kept:,} of {len(ranks):,} {noun} are nearly the same as another: they make {groups:,} group(s), each "
            "on one side of the split."
        )
    if loose:
        notes.append(
            f"{loose:,} of {len(ranks):,} {noun} are so alike that keeping them together would leave no split: "
            "validation text is much like training text."
        )
    return places


def split_documents(
    documents: Iterable[Document],
    validation_fraction: float,
    notes: list[str],
    places: Mapping[float, float] | None = None,
) -> Iterator[tuple[str, Document]]:
    """("train" or "validation", document) for every document, holding back at most a few of them.

    `places`: of near-duplicates (looked for among `cut_if_few(documents)`). Where there are two different documents or
    more, both sides get at least one (with a fraction above 0). What was done to small corpora is appended to `notes`
    as sentences.
    """
    if validation_fraction == 0:
        yield from ((TRAIN, document) for document in documents)
        return
    places = places or {}
    documents = cut_if_few(documents, notes)
    # As long as one side is empty, what is nearest to the border waits: it may have to change sides at the end.
    first_side, waiting, waiting_place, given = None, [], 0.0, 0
    for document in documents:
        place = _place(document, places)
        side = VALIDATION if place < validation_fraction else TRAIN
        nearer = abs(place - validation_fraction) < abs(waiting_place - validation_fraction)
        if first_side is None:
            first_side, waiting, waiting_place = side, [document], place
        elif side != first_side:
            yield from ((first_side, held) for held in waiting)
            yield side, document
            for rest in documents:
                yield (VALIDATION if _place(rest, places) < validation_fraction else TRAIN), rest
            return
        elif place == waiting_place:  # the same text again, or nearly; it must not end up on both sides
            waiting.append(document)
        elif nearer:
            yield from ((side, held) for held in waiting)
            given += len(waiting)
            waiting, waiting_place = [document], place
        else:
            yield side, document
            given += 1
    if not waiting:
        return
    if given == 0:
        notes.append("All text is one document: everything trains, and there is no validation text.")
        yield from ((TRAIN, held) for held in waiting)
        return
    other = VALIDATION if first_side == TRAIN else TRAIN
    notes.append(f"By its hash every document belonged to {first_side}; {waiting[0].source} was moved to {other}.")
    yield from ((other, held) for held in waiting)


def _place(document: Document, places: Mapping[float, float]) -> float:
    place = rank(document.text)
    return places.get(place, place)


def cut_if_few(documents: Iterable[Document], notes: list[str]) -> Iterator[Document]:
    """The documents, cut into sections if there are fewer than FEW_DOCUMENTS, which is then said in `notes`."""
    documents = iter(documents)
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
