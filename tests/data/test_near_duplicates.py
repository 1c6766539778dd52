"""Near-duplicates: found as often as theory says, in any order, and on one side of the split."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmcore.cli.finetune import split_rows
from llmcore.data import near_duplicates, open_shard
from llmcore.data.near_duplicates import BINS, near_duplicate_groups, sketch
from llmcore.data.prepare import prepare
from llmcore.data.readers import Document
from llmcore.data.split import places_of_near_duplicates, rank, split_documents

WORDS = [f"{a}{b}{c}" for a in "bdfglmnprst" for b in "aeiou" for c in ("", "k", "nd", "rst", "th")]


def some_text(seed: int, words: int = 400) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def edited(text: str, part: float, seed: int = 0) -> str:
    """With about `part` of its words replaced, in one piece."""
    words = text.split(" ")
    count = round(part * len(words))
    start = np.random.default_rng(seed).integers(0, len(words) - count + 1)
    return " ".join([*words[:start], *some_text(seed + 10_000, count).split(" "), *words[start + count :]])


def passages(text: str) -> set[str]:
    return {text[i : i + near_duplicates.PASSAGE] for i in range(len(text) - near_duplicates.PASSAGE + 1)}


def test_sketches_estimate_the_shared_passages():
    """Against the sets themselves: without bias, with the spread of a binomial."""
    errors = []
    for seed in range(60):
        text = some_text(seed)
        other = edited(text, (seed % 6) / 8, seed)
        a, b = passages(text), passages(other)
        estimate = near_duplicates._similarity(sketch(text.encode())[None], sketch(other.encode())[None])[0]
        errors.append(estimate - len(a & b) / len(a | b))
    assert abs(np.mean(errors)) < 0.02 and np.std(errors) < 0.5 / np.sqrt(BINS) + 0.005


def test_pairs_are_found_whatever_the_order_and_others_are_not():
    texts = [some_text(seed) for seed in range(200)]
    texts += [edited(texts[seed], 0.1, seed).upper().replace(" ", ",\n") for seed in range(0, 200, 2)]
    expected = {frozenset((seed, 200 + seed // 2)) for seed in range(0, 200, 2)}
    assert {frozenset(group) for group in near_duplicate_groups(texts)} == expected
    order = np.random.default_rng(1).permutation(len(texts))
    mixed = near_duplicate_groups(texts[number] for number in order)
    assert {frozenset(int(order[number]) for number in group) for group in mixed} == expected


@pytest.mark.parametrize("part, found", [(0.2, True), (0.55, False)])
def test_the_border_for_short_texts(part, found):
    """0.2 replaced leaves two thirds of all passages shared, 0.55 leaves 0.3."""
    hits = sum(bool(near_duplicate_groups([some_text(s), edited(some_text(s), part, s)])) for s in range(40))
    assert hits == (40 if found else 0)


def test_long_texts_need_less():
    text = some_text(1, 5000)
    assert len(text) > near_duplicates.LONG
    assert near_duplicate_groups([text, edited(text, 0.5)]) == [[0, 1]]
    assert near_duplicate_groups([text, edited(text, 0.7)]) == []


def test_short_and_odd_texts():
    forms = [f"order {number} was sent" for number in range(50)]
    assert near_duplicate_groups(forms) == []
    assert near_duplicate_groups(["Order 1, sent!", *forms[2:], "ORDER 1 SENT"]) == [[0, 49]]
    assert near_duplicate_groups([]) == near_duplicate_groups(["one"]) == near_duplicate_groups(["", "a"]) == []
    chinese = "".join(chr(0x4E00 + int(code)) for code in np.random.default_rng(0).integers(0, 3000, 500))
    assert near_duplicate_groups([chinese, some_text(3), chinese[:450] + "\ud800"]) == [[0, 2]]


def sides_of(texts: list[str], fraction: float = 0.1) -> dict[str, str]:
    notes: list[str] = []
    places = places_of_near_duplicates(texts, fraction, notes)
    documents = [Document(text, "x") for text in texts]
    return {document.text: side for side, document in split_documents(documents, fraction, notes, places)}


def test_groups_are_on_one_side_and_seldom_move():
    """200 texts of three editions each. As the third ones are added, few texts change sides."""
    editions = [[some_text(s), edited(some_text(s), 0.1, s), edited(some_text(s), 0.1, s + 500)] for s in range(200)]
    before = sides_of([text for group in editions for text in group[:2]])
    after = sides_of([text for group in editions for text in group])
    assert all(len({after[text] for text in group}) == 1 for group in editions)
    assert sum(before[text] != after[text] for text in before) / len(before) < 0.12  # 2/3 * 2 * 0.1 * 0.9
    share = sum(side == "validation" for side in after.values()) / len(after)
    assert 0.04 < share < 0.16  # not the chance that any of three is drawn, 0.27
    assert sides_of([text for group in editions for text in group][::-1]) == after


def test_groups_too_large_for_validation():
    form = some_text(5)
    few = [edited(form, 0.05, seed) for seed in range(12)]
    others = [some_text(seed) for seed in range(100, 180)]
    sides = sides_of([*few, *others])
    assert {sides[text] for text in few} == {"train"} and "validation" in sides.values()
    for number in range(12):  # among as many groups some would be drawn for validation
        alike = [edited(some_text(number), 0.05, seed) for seed in range(15)]
        assert min(places_of_near_duplicates([*alike, *others[:25]], 0.3, []).values()) >= 0.3
    notes: list[str] = []
    assert places_of_near_duplicates([edited(form, 0.05, seed) for seed in range(60)], 0.1, notes) == {}
    assert "60 of 60 documents are so alike" in notes[0]


def test_prepared_text_has_no_leak(tmp_path):
    """Editions under different names, on different sides without the search and on one with it."""
    for seed in range(60):
        (tmp_path / f"a{seed}.txt").write_text(some_text(seed))
        (tmp_path / f"z{seed}.txt").write_text(edited(some_text(seed), 0.1, seed))
    leaks = {}
    for near in (True, False):
        report = prepare(tmp_path, tmp_path / "out", "byte", validation_fraction=0.2, near_duplicates=near)
        texts = {}
        for side in ("train", "validation"):
            with open_shard(tmp_path / "out" / f"{side}.bin") as shard:
                text = bytes(shard.read(0, len(shard)).clip(0, 255).astype(np.uint8)).split(b"\xff")
                texts[side] = [part for part in text if part]
        assert sum(map(len, texts.values())) == 120
        everything = [part.decode() for side in texts.values() for part in side]
        groups, border = near_duplicate_groups(everything), len(texts["train"])
        assert len(groups) == 60
        leaks[near] = sum(len({number < border for number in group}) == 2 for group in groups)
        assert any("120 of 120 documents are nearly the same" in note for note in report.notes) == near
        for file in (tmp_path / "out").iterdir():
            file.unlink()
    assert leaks[True] == 0 and leaks[False] > 5


def test_rows_of_a_data_set():
    rows = [{"messages": [{"role": "user", "content": some_text(seed)}]} for seed in range(40)]
    rows += [{"messages": [{"role": "user", "content": edited(some_text(seed), 0.1, seed)}]} for seed in range(40)]
    train, validation, notes = split_rows(rows, 0.2)
    assert "80 of 80 rows are nearly the same as another: they make 40 group(s)" in notes[0]
    assert train and validation and len(train) + len(validation) == 80
    places = {json.dumps(row): False for row in train} | {json.dumps(row): True for row in validation}
    assert all(places[json.dumps(rows[seed])] == places[json.dumps(rows[seed + 40])] for seed in range(40))
    alone = split_rows(rows, 0.2, near_duplicates=False)[1]
    assert {rank("user " + some_text(s)) < 0.2 for s in range(40) if rows[s] in alone} == {True}
