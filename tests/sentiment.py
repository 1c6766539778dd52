"""Real movie-review snippets with scores, from the source package of vaderSentiment, for tests marked slow."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest


@functools.cache
def snippets() -> list[tuple[str, float]]:
    """(text, mean score from -4 to 4), in the order of the file; skips the test if it cannot be fetched."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = caches / "llmcore-tests" / "vaderSentiment-3.3.2"
    if not list(folder.glob("*.tar.gz")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", ":all:", "--no-deps"]
        try:
            subprocess.run(
                [*command, "--dest", str(folder), "vaderSentiment==3.3.2"], check=True, capture_output=True, timeout=600
            )
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"vaderSentiment could not be fetched: {error}")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as outer:
        name = next(member for member in outer.getnames() if member.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=outer.extractfile(name)) as inner:
            file = inner.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
            text = file.read().decode("utf-8", errors="replace")
    rows = [line.split("\t") for line in text.splitlines()]
    return [(row[2], float(row[1])) for row in rows if len(row) == 3]
