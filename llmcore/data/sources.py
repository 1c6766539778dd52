"""Which files a user means: paths, folders, globs, "-" for standard input, "stdlib" for Python's own library."""

from __future__ import annotations

import difflib
import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from llmcore.errors import DataError

STDIN = "-"
STDLIB = "stdlib"

JSONL_SUFFIXES = frozenset({".jsonl", ".jsonlines", ".ndjson"})

# What is picked up inside a folder. A file that is named itself is read whatever it is called, unless REFUSED knows
# better.
TEXT_SUFFIXES = frozenset(
    ".txt .text .md .markdown .rst .tex .org .adoc "
    ".py .pyi .c .h .cc .cpp .cxx .hpp .cu .cuh .rs .go .java .kt .scala .js .ts .tsx .jsx .rb .php .pl .lua .r .jl "
    ".sh .sql .hs .ml .lisp .el .swift .cs .cmake".split()
)

REFUSED = {
    ".parquet": "convert it to JSON Lines",
    ".json": "write one object a line and call it .jsonl",
    ".csv": "convert it to JSON Lines",
    ".tsv": "convert it to JSON Lines",
    ".html": "extract its text first",
    ".htm": "extract its text first",
    ".zip": "unpack it first",
    ".tar": "unpack it first",
    ".tgz": "unpack it first",
    ".zst": "unpack it or use .gz",
    ".bz2": "unpack it or use .gz",
    ".xz": "unpack it or use .gz",
    ".pdf": "convert it to text first",
    ".doc": "convert it to text first",
    ".docx": "convert it to text first",
    ".npy": "give text, not arrays",
    ".bin": "it looks like tokens already: open it with open_shard",
}


def suffix_of(name: str) -> str:
    """The suffix that decides the format, lower case, without a trailing .gz: "a.JSONL.gz" -> ".jsonl"."""
    name = name.lower()
    return os.path.splitext(name[:-3] if name.endswith(".gz") else name)[1]


def expand_sources(sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """Resolve `sources` to a list of files, in a fixed order: as given, folders and globs sorted by name, each file
    once.

    "-" and "stdlib" stay as they are. Raises DataError, with what was found, where something does not exist or holds no
    text.
    """
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    if not sources:
        raise DataError("no sources were given; expected files, folders, globs, '-' (standard input) or 'stdlib'.")
    files: dict[str, str] = {}  # real path -> path as the user wrote it; a file named twice is read once
    for source in map(os.fspath, sources):
        for file in _expand(source):
            files.setdefault(file if file in (STDIN, STDLIB) else os.path.realpath(file), file)
    return list(files.values())


def _expand(source: str) -> list[str]:
    if source in (STDIN, STDLIB):
        return [source]
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        return _files_in(path)
    if os.path.exists(path):
        return [_checked(path)]
    if glob.has_magic(path):
        matches = sorted(glob.glob(path, recursive=True))
        if not matches:
            raise DataError(f"the pattern {source!r} matches no file.")
        files = [match for match in matches if os.path.isfile(match)]
        # `data/*` also matches sub-folders; a pattern that only matches folders means their contents.
        return [_checked(file) for file in files] or [file for match in matches for file in _files_in(match)]
    raise DataError(f"{source!r} does not exist; expected a file, a folder or a pattern.{_nearest(path)}")


def _checked(path: str) -> str:
    suffix = suffix_of(path)
    if suffix in REFUSED:
        raise DataError(f"{path}: {suffix} files are not read; {REFUSED[suffix]}.")
    return path


def _files_in(folder: str) -> list[str]:
    found, others = [], Counter()
    for directory, subdirectories, names in os.walk(folder):  # does not follow links to directories: no cycles
        subdirectories[:] = sorted(name for name in subdirectories if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(directory, name)
            if name.startswith(".") or not os.path.isfile(path):
                continue
            suffix = suffix_of(name)
            if suffix in TEXT_SUFFIXES or suffix in JSONL_SUFFIXES:
                found.append(path)
            else:
                others[suffix or "no suffix"] += 1
    if not found:
        seen = ", ".join(f"{count} x {suffix}" for suffix, count in others.most_common(5)) or "nothing"
        raise DataError(
            f"the folder {folder} holds no text files (found: {seen}); expected .txt, .md, .py, .jsonl and so on."
        )
    return found


def _nearest(path: str) -> str:
    parent = Path(path).parent
    names = os.listdir(parent) if parent.is_dir() else []
    near = difflib.get_close_matches(Path(path).name, names, n=1)
    return f" Did you mean {str(parent / near[0])!r}?" if near else ""
