"""Files -> rows: JSON Lines, JSON, csv, tsv and parquet, as data sets for fine-tuning come."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmcore.data.sources import suffix_of
from llmcore.errors import ConfigError, DataError

Row = dict[str, Any]


def read_rows(sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Row]:
    """The rows of one or more files, in order; `.gz` is unpacked.

    .jsonl: an object a line. .json: a list of objects, or {"data": [...]}. .csv, .tsv: the first line names the
    columns, values stay strings. .parquet (needs pyarrow). .txt: a row {"text": ...} for each line that is not empty.
    Raises DataError with file and line, ConfigError where pyarrow is missing.
    """
    paths = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    rows: list[Row] = []
    for source in paths:
        path = Path(source)
        kind = suffix_of(str(path))
        if kind not in READERS:
            raise DataError(
                f"{path}: rows are read from {', '.join(READERS)}, not from {kind or 'a file without suffix'}"
            )
        if not path.is_file():
            raise DataError(f"{path} is not a file")
        rows += READERS[kind](path)
    if not rows:
        raise DataError(f"{', '.join(map(str, paths))}: there is not a single row")
    return rows


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8, as iconv -t UTF-8 does"
        ) from None
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not valid JSON: {error}") from None


def _objects(values: Any, place: Callable[[int], str]) -> list[Row]:
    for number, value in enumerate(values):
        if not isinstance(value, dict):
            raise DataError(f"{place(number)}: a row is a JSON object, got {type(value).__name__}")
    return list(values)


def _json_lines(path: Path) -> list[Row]:
    lines = [(number, line) for number, line in enumerate(_text(path).split("\n"), 1) if line.strip()]
    values = [_parse(line, f"{path}:{number}") for number, line in lines]
    return _objects(values, lambda index: f"{path}:{lines[index][0]}")


def _json(path: Path) -> list[Row]:
    content = _parse(_text(path), str(path))
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if not isinstance(content, list):
        raise DataError(f"{path} must hold a list of objects, got {type(content).__name__}; one a line is .jsonl")
    return _objects(content, lambda index: f"{path}, element {index}")


def _separated(separator: str) -> Callable[[Path], list[Row]]:
    def read(path: Path) -> list[Row]:
        reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=separator, strict=True)
        limit = csv.field_size_limit(min(sys.maxsize, 1 << 30))
        try:
            names = next(reader, [])
            if len(set(names)) != len(names) or not all(names):
                raise DataError(
                    f"{path}: the first line must name each column once, got {', '.join(names) or 'nothing'}"
                )
            rows = []
            for values in reader:
                if not values:
                    continue
                if len(values) != len(names):
                    raise DataError(f"{path}:{reader.line_num}: {len(values)} values for {len(names)} columns")
                rows.append(dict(zip(names, values, strict=True)))
            return rows
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: {error}") from None
        finally:
            csv.field_size_limit(limit)

    return read


def _parquet(path: Path) -> list[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("parquet files need pyarrow: pip install 'llmcore[parquet]'") from None
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is no parquet file that can be read: {error}") from None


def _lines(path: Path) -> list[Row]:
    return [{"text": line} for line in _text(path).splitlines() if line.strip()]


# suffix -> reader
READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".parquet": _parquet,
    ".txt": _lines,
}
