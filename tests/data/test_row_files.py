"""Rows from files of every kind, from HF datasets and from lists; broken files are named."""

from __future__ import annotations

import gzip
import json

import pytest

from llmcore.data.row_files import read_rows
from llmcore.data.rows import detect_rows
from llmcore.errors import DataError

ROWS = [{"text": 'a "quoted", text\nof two lines', "label": "1"}, {"text": "中文 naïve", "label": "0"}]


def write_all(folder):
    import csv

    paths = {}
    for name in ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.jsonl.gz"):
        paths[name] = folder / name
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    paths["a.jsonl"].write_text("\ufeff" + lines + "\n\n", encoding="utf-8")
    paths["a.jsonl.gz"].write_bytes(gzip.compress(lines.encode()))
    paths["a.json"].write_text(json.dumps(ROWS), encoding="utf-8")
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        with paths[name].open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"], delimiter=separator)
            writer.writeheader()
            writer.writerows(ROWS)
    return paths


def test_every_kind_of_file(tmp_path):
    for path in write_all(tmp_path).values():
        assert read_rows(path) == ROWS, path
    assert read_rows([tmp_path / "a.csv", str(tmp_path / "a.json")]) == ROWS * 2
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    assert read_rows(tmp_path / "a.txt") == [{"text": "one"}, {"text": " two "}]
    (tmp_path / "data.json").write_text(json.dumps({"data": ROWS}))
    assert read_rows(tmp_path / "data.json") == ROWS


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"text": "a", "score": 0.5, "tokens": ["x", "y"]}, {"text": "b", "score": -1.0, "tokens": []}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet") == rows
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="is no parquet file"):
        read_rows(tmp_path / "b.parquet")


def test_datasets_of_hugging_face_are_rows():
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_list([{"text": "a", "label": 1}, {"text": "b", "label": 0}])
    assert detect_rows(dataset).render() == "2 rows of text with a label ('text', 'label'): 0 1, 1 1"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", '{"text": 1}\n{"text"', r"a\.jsonl:2: not valid JSON"),
        ("a.jsonl", "[1]", r"a\.jsonl:1: a row is a JSON object, got list"),
        ("a.json", '"text"', "must hold a list of objects, got str"),
        ("a.json", '[{"a": 1}, 2]', "element 1: a row is a JSON object"),
        ("a.csv", "text,label\na,1\nb", r"a\.csv:3: 1 values for 2 columns"),
        ("a.csv", "text,text\na,1", "must name each column once"),
        ("a.csv", 'text\n"a', r"a\.csv:2"),
        ("a.csv", "text\n", "there is not a single row"),
        ("a.xlsx", "x", "rows are read from .jsonl"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name)
    with pytest.raises(DataError, match="is not a file"):
        read_rows(tmp_path / "nothing.csv")
