"""What the tests of the command line share: how to run it, and text to run it on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import llmcore

ENVIRONMENT = {
    **os.environ,
    # the package that is being tested, whether installed or in the checkout
    "PYTHONPATH": str(Path(llmcore.__file__).resolve().parent.parent),
    "COLUMNS": "100",
}
COMMAND = [sys.executable, "-m", "llmcore"]

# A model that trains in a second: 1 layer of width 32 on bytes.
TINY = ["--n_layer", "1", "--n_head", "2", "--n_embd", "32", "--block_size", "32", "--tokenizer", "byte"]


def run(*arguments: str, cwd: Path, status: int = 0, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `llmcore ...` in `cwd` and checks its exit status; no status excuses a traceback."""
    result = subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, env=ENVIRONMENT, input=text, capture_output=True, text=True, timeout=300
    )
    shown = f"llmcore {' '.join(arguments)}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    assert result.returncode == status, shown
    assert "Traceback" not in result.stderr, shown
    return result


def run_json(*arguments: str, cwd: Path, text: str | None = None) -> dict[str, Any]:
    """Like `run` with --json; stdout must hold one object and nothing else."""
    return json.loads(run(*arguments, "--json", cwd=cwd, text=text).stdout)


def prose(sentences: int = 800, seed: int = 0) -> str:
    """Text with some structure: sentences from a small grammar, in paragraphs."""
    draw = random.Random(seed)
    subjects = ["the cat", "a dog", "my old neighbour", "nobody", "the tall woman", "every bird"]
    verbs = ["sees", "follows", "forgets", "paints", "wants"]
    objects = ["the river", "a red house", "three apples", "the long road", "some music"]
    lines = [
        f"{draw.choice(subjects).capitalize()} {draw.choice(verbs)} {draw.choice(objects)}." for _ in range(sentences)
    ]
    return "\n\n".join(" ".join(lines[i : i + 5]) for i in range(0, len(lines), 5)) + "\n"
