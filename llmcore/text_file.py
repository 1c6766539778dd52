"""Small text files that appear under their name only when they are complete and on the disk."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 beside `path`, brings it to the disk and renames it; a crash leaves the old content or the new.

    A link is written through, as plain writing would. Raises OSError, with nothing left behind.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
