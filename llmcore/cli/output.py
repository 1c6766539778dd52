"""What the verbs print: results on stdout (text, or one JSON object), remarks on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def remark(text: str) -> None:
    """A line for the person who watches, on stderr: it is not part of the result."""
    print(text, file=sys.stderr, flush=True)


def print_result(result: dict[str, Any], text: str, as_json: bool) -> None:
    """The result of a verb on stdout: `text`, or `result` as one JSON object."""
    print(json.dumps(result, ensure_ascii=False, default=str) if as_json else text, flush=True)


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Columns padded to equal width; the first is aligned left, the others right."""
    lines = [list(map(str, row)) for row in ([head] if head else [])] + [list(map(str, row)) for row in rows]
    if not lines:
        return ""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def pairs(rows: Iterable[tuple[str, Any]]) -> str:
    """`name  value` lines with the values below each other."""
    rows = [(name, str(value)) for name, value in rows]
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def spell_bytes(count: float) -> str:
    """`512 bytes`, `4.2 kB`, `13.0 MB`, in powers of ten as file managers show them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def spell_duration(seconds: float) -> str:
    """`45 s` or `4 min 05 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
