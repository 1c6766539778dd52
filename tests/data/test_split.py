"""The side of a document: by its text alone, stable as data grows, and never one side empty without saying so."""

from __future__ import annotations

import pytest

from llmcore.data.readers import Document
from llmcore.data.split import FEW_DOCUMENTS, rank, split_documents


def documents(texts):
    return [Document(text, f"source {i}") for i, text in enumerate(texts)]


def sides(texts, fraction=0.05):
    """{side: texts in order}, and the notes."""
    notes, result = [], {"train": [], "validation": []}
    for side, document in split_documents(documents(texts), fraction, notes):
        result[side].append(document.text)
    return result, notes


MANY = [f"text number {i}" for i in range(5000)]


def test_the_share_is_about_the_fraction():
    for fraction in (0.01, 0.05, 0.5):
        share = len(sides(MANY, fraction)[0]["validation"]) / len(MANY)
        assert abs(share - fraction) < 4 * (fraction * (1 - fraction) / len(MANY)) ** 0.5


def test_growing_and_reordering_moves_nobody():
    before = set(sides(MANY[:1000])[0]["validation"])
    after = set(sides(MANY[::-1])[0]["validation"])
    assert before and before == after & set(MANY[:1000])


def test_the_hash_is_fixed_for_ever():
    assert [round(rank(text), 6) for text in ("", "a", "中文")] == [0.893168, 0.253794, 0.007421]


def test_nothing_is_lost_and_equal_documents_stay_together():
    result, _ = sides(MANY + MANY)
    assert sorted(result["train"] + result["validation"]) == sorted(MANY + MANY)
    assert not set(result["train"]) & set(result["validation"])


def on_side(fraction, validation, count):
    """`count` texts that all hash to the same side."""
    return [text for text in MANY if (rank(text) < fraction) == validation][:count]


@pytest.mark.parametrize("count", [2, 3, 19, 20, 60])
@pytest.mark.parametrize("validation", [False, True])
def test_both_sides_get_a_document_even_if_all_hash_to_one(count, validation):
    texts = on_side(0.05, validation, count)
    result, notes = sides(texts)
    assert sorted(result["train"] + result["validation"]) == sorted(texts)
    assert len(result["train" if validation else "validation"]) == 1
    assert "was moved to" in notes[-1]


def test_copies_of_the_moved_document_move_too():
    texts = on_side(0.05, False, 30)
    nearest = min(texts, key=rank)
    result, _ = sides([nearest, *texts, nearest])
    assert result["validation"] == [nearest] * 3


def test_one_document_only():
    for text in (on_side(0.05, False, 1)[0], on_side(0.05, True, 1)[0]):
        result, notes = sides([text, text])
        assert result == {"train": [text, text], "validation": []}
        assert "no validation text" in notes[0]
    assert sides([]) == ({"train": [], "validation": []}, [])


def test_one_long_document_is_cut_into_sections():
    text = "".join(f"Paragraph {i}.\n\n" for i in range(5000))
    result, notes = sides([text])
    assert result["validation"] and len(result["train"]) > 10
    assert sum(map(len, result["train"] + result["validation"])) == len(text)
    assert "cut at paragraphs" in notes[0]


def test_enough_documents_are_not_cut():
    texts = [f"{i}\n\n" * 3000 for i in range(FEW_DOCUMENTS)]
    result, notes = sides(texts)
    assert sorted(result["train"] + result["validation"]) == sorted(texts)
    assert not [note for note in notes if "cut" in note]


def test_without_validation_everything_trains_uncut():
    assert sides(["x" * 100_000], 0) == ({"train": ["x" * 100_000], "validation": []}, [])


def test_streams():
    taken = []

    def endless():
        for i in range(10**9):
            taken.append(i)
            yield Document(f"text number {i}", "x")

    stream = split_documents(endless(), 0.05, [])
    for _ in range(100):
        next(stream)
    assert len(taken) <= 100 + FEW_DOCUMENTS + 1
