"""Files to documents: every format, hostile text, and errors that say what to do."""

from __future__ import annotations

import gzip
import io
import json
import sys

import pytest

from llmcore.data.readers import Document, ReadStatistics, cut_sections, read_documents, repair
from llmcore.errors import DataError


def texts(*sources, **options):
    return [document.text for document in read_documents([str(source) for source in sources], **options)]


def test_text_markdown_and_gzip(tmp_path):
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.md").write_text("second")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"third"))
    assert texts(tmp_path) == ["first", "second", "third"]
    assert next(read_documents(str(tmp_path / "a.txt"))) == Document("first", str(tmp_path / "a.txt"))


def test_jsonl_plain_and_gzip(tmp_path):
    lines = "\n".join(json.dumps({"text": text, "id": 1}) for text in ("one", "zwei", "三")) + "\n\n"
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert texts(tmp_path) == ["one", "zwei", "三"] * 2
    assert list(read_documents(tmp_path / "a.jsonl"))[1].source.endswith("a.jsonl:2")


def test_another_text_field(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": "x"}')
    assert texts(tmp_path, text_field="content") == ["x"]


@pytest.mark.parametrize(
    "content, expected", [(b"plain\nlines", ["plain\nlines"]), (b'{"text": "j"}\n{"text": "k"}', ["j", "k"])]
)
def test_stdin_tells_json_lines_by_its_start(monkeypatch, content, expected):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))
    assert texts("-") == expected


HOSTILE = {
    "invalid": (b"a\xffb\xc3\x28", "a\ufffdb\ufffd(", 2),
    "truncated at the end": (b"abc\xe4\xb8", "abc\ufffd", 1),
    "a genuine U+FFFD is not counted": ("a\ufffdb".encode(), "a\ufffdb", 0),
    "a genuine one beside an invalid byte": (b"\xff\xef\xbf\xbd", "\ufffd\ufffd", 1),
    "an encoded surrogate": (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd", 3),
    "NULs": (b"a\0\0b", "a\0\0b", 0),
    "byte order mark": (b"\xef\xbb\xbfa", "a", 0),
    "UTF-16, little": ("\ufeffhé".encode("utf-16-le"), "hé", 0),
    "UTF-16, big": ("\ufeffhé".encode("utf-16-be"), "hé", 0),
    "UTF-32": ("\ufeffhé".encode("utf-32-le"), "hé", 0),
    "CRLF stays": (b"a\r\nb\r", "a\r\nb\r", 0),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bytes_are_repaired_and_counted(tmp_path, case):
    raw, expected, replaced = HOSTILE[case]
    (tmp_path / "a.txt").write_bytes(raw)
    statistics = ReadStatistics()
    (document,) = read_documents(tmp_path / "a.txt", statistics=statistics)
    assert document.text == expected
    assert statistics.replaced_characters == replaced
    document.text.encode()  # every text is valid UTF-8 afterwards


def test_replacement_counting_across_read_blocks(tmp_path, monkeypatch):
    raw = "aé\ufffd\U0001f600".encode() * 5 + b"\xff\xc3"
    (tmp_path / "a.txt").write_bytes(raw)
    for block in range(1, 9):
        monkeypatch.setattr("llmcore.data.readers._BLOCK_BYTES", block)
        statistics = ReadStatistics()
        (document,) = read_documents(tmp_path / "a.txt", statistics=statistics)
        assert document.text == raw.decode(errors="replace")
        assert statistics.replaced_characters == 2, block


def test_lone_surrogates_in_json(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b \\ud83d\\ude00"}')
    statistics = ReadStatistics()
    (document,) = read_documents(tmp_path, statistics=statistics)
    assert document.text == "a\ufffdb \U0001f600"
    assert statistics.replaced_characters == 1
    assert repair("x\udfff") == ("x\ufffd", 1)


def test_broken_line_names_file_and_line_and_can_be_skipped(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"text": "ok"}\n{"text": \n["list"]\n{"text": 5}\n' + "[" * 100_000 + '\n{"text": "end"}\n'
    )
    with pytest.raises(DataError, match=r"a\.jsonl:2: not valid JSON"):
        texts(tmp_path)
    statistics = ReadStatistics()
    assert texts(tmp_path, on_error="skip", statistics=statistics) == ["ok", "end"]
    assert statistics.skipped_lines == 4


def test_missing_field_names_the_fields_found(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": "x", "id": 3}')
    with pytest.raises(DataError, match=r"a\.jsonl:1: no field 'text'; the fields are: 'content', 'id'"):
        texts(tmp_path)


def test_empty_files_are_counted(tmp_path):
    for name, text in (("a.txt", ""), ("b.txt", " \n\t"), ("c.txt", "x")):
        (tmp_path / name).write_text(text)
    statistics = ReadStatistics()
    assert texts(tmp_path, statistics=statistics) == ["x"]
    assert (statistics.files, statistics.empty_documents) == (3, 2)


def test_broken_gzip(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"x" * 10_000)[:20])
    with pytest.raises(DataError, match="not a whole gzip file"):
        texts(tmp_path)
    (tmp_path / "a.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="not a whole gzip file"):
        texts(tmp_path)


def test_json_line_above_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("llmcore.data.readers._LINE_BYTES", 100)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x" * 200}))
    with pytest.raises(DataError, match="longer than 100 bytes"):
        texts(tmp_path)


# ---- sections ----


def cut(text, section, threshold=0, piece=None):
    piece = piece or max(len(text), 1)
    return list(cut_sections([text[i : i + piece] for i in range(0, len(text), piece)] or [""], section, threshold))


def test_sections_join_to_the_text_and_end_at_paragraphs():
    text = "".join(f"Paragraph {i} has some words.\nAnd a second line.\n\n" for i in range(200))
    sections = cut(text, 500)
    assert "".join(sections) == text
    assert all(250 < len(section) <= 500 and section.endswith("\n\n") for section in sections[:-1])


@pytest.mark.parametrize("separator", ["\r\n\r\n", "\n", " ", ""])
def test_sections_without_paragraphs(separator):
    text = ("word" + separator) * 1000
    sections = cut(text, 100)
    assert "".join(sections) == text and max(map(len, sections)) <= 100
    assert separator == "" or all(section.endswith(separator) for section in sections)


def test_sections_do_not_depend_on_the_pieces_nor_on_what_follows():
    text = "".join(f"line {i * 7919 % 101}\n" + "\n" * (i % 5 == 0) for i in range(500))
    whole = cut(text, 200, threshold=1000)
    for piece in (1, 7, 199, 200, 201, 5000):
        assert cut(text, 200, threshold=1000, piece=piece) == whole
    assert cut(text + "appended later\n" * 50, 200, threshold=1000)[: len(whole) - 1] == whole[:-1]


def test_below_the_threshold_nothing_is_cut():
    assert cut("a\n\n" * 100, 50, threshold=300) == ["a\n\n" * 100]
    assert len(cut("a\n\n" * 101, 50, threshold=300)) > 1
    assert cut("", 50) == [""]


def test_one_long_line_streams(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 5_000_000)
    lengths = [len(text) for text in texts(tmp_path, section_characters=1000, section_threshold=1000)]
    assert sum(lengths) == 5_000_000 and max(lengths) == 1000
    assert texts(tmp_path, section_characters=None) == ["x" * 5_000_000]
