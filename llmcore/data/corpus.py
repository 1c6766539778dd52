"""A corpus that is on every machine: the standard library of the Python that is running, source and docstrings."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmcore.errors import DataError

if TYPE_CHECKING:
    from llmcore.data.readers import Document

_LEFT_OUT_FOLDERS = frozenset(
    {
        "__pycache__", "test", "tests", "idle_test", "site-packages", "dist-packages", "ensurepip", "lib-dynload",
        # 1.4 MB of generated code tables and 0.8 MB of reference text in one string literal: not code that one would
        # complete
        "encodings", "pydoc_data",
    }
)  # fmt: skip


def standard_library_files() -> Iterator[tuple[str, str]]:
    """(name, path) of the library's .py files, for instance ("stdlib/json/decoder.py", ...), sorted by name.

    Without tests, installed packages and generated tables. Raises DataError where this Python has no sources on disk.
    """
    root = sysconfig.get_paths()["stdlib"]
    files = []
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = [name for name in subdirectories if name not in _LEFT_OUT_FOLDERS]
        for name in names:
            path = os.path.join(directory, name)
            # _sysconfigdata_*.py holds this machine's build flags; it would make two equal Pythons differ.
            if name.endswith(".py") and not name.startswith("_sysconfigdata") and os.path.isfile(path):
                files.append(("stdlib/" + os.path.relpath(path, root).replace(os.sep, "/"), path))
    if not files:
        raise DataError(f"this Python has no .py files of its standard library in {root}; give a text file instead.")
    return iter(sorted(files))


def standard_library_documents() -> Iterator[Document]:
    """The documents of `standard_library_files()`; the same as `read_documents("stdlib")`."""
    from llmcore.data.readers import read_documents

    return read_documents("stdlib")
