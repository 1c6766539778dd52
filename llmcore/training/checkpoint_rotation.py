"""What happens to checkpoints once written: rotation, removal of leftovers, setting an earlier run aside."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Collection
from pathlib import Path

from llmcore.errors import CheckpointError
from llmcore.training.checkpoint import list_checkpoints, load_checkpoint

logger = logging.getLogger("llmcore")

_LEFTOVER = re.compile(r"\.(?:tmp|trash|replaced)-(checkpoint-\d+)-(?:(\d+)-)?[0-9a-f]{8}")
# what a run writes besides its checkpoints and must not be mixed with what the next one writes
_RUN_FILES = ("metrics.jsonl", "metrics.csv", "trainer_state.json", "loss.png", "training_args.json")


def rotate_checkpoints(run_dir: str | Path, limit: int, protect: Collection[str | Path] = ()) -> list[Path]:
    """Removes the oldest checkpoints until `limit` are left, and returns what was removed.

    The folders in `protect` (the best one) stay, and so does the newest one that verifies completely: it is read back
    before anything is removed. As a checkpoint with a NaN is never written, that is the last finite one, too.
    """
    checkpoints = list_checkpoints(run_dir)
    surplus = len(checkpoints) - max(1, limit)
    if surplus <= 0:
        return []
    keep = {Path(path).name for path in protect}
    for path in reversed(checkpoints):
        with contextlib.suppress(CheckpointError):
            load_checkpoint(path)
            keep.add(path.name)
            break
    else:
        logger.warning("no checkpoint in %s is intact, so none is removed", run_dir)
        return []
    removed = []
    for path in checkpoints:
        if len(removed) == surplus:
            break
        if path.name not in keep:
            remove_checkpoint(path)
            removed.append(path)
    return removed


def remove_checkpoint(path: Path) -> None:
    """Removes a checkpoint; it loses its name first, so that a half-removed one is never mistaken for a whole one."""
    trash = path.with_name(f".trash-{path.name}-{secrets.token_hex(4)}")
    os.rename(path, trash)
    shutil.rmtree(trash)


def remove_leftovers(run_dir: str | Path) -> list[str]:
    """Removes what an interrupted save or rotation left in `run_dir`, and returns the names.

    A folder that was moved aside for a replacement which never came is given its name back. What a process that still
    lives is writing is left alone.
    """
    removed = []
    for name in sorted(os.listdir(run_dir)):
        path, match = Path(run_dir) / name, _LEFTOVER.fullmatch(name)
        if match is None or path.is_symlink() or not path.is_dir():
            continue
        if match[2] is not None and _is_other_living_process(int(match[2])):
            continue
        original = path.with_name(match[1])
        if name.startswith(".replaced-") and not os.path.lexists(original):
            os.rename(path, original)
            continue
        shutil.rmtree(path)
        removed.append(name)
    return removed


def set_aside_earlier_run(run_dir: str | Path) -> Path | None:
    """Moves an earlier run's checkpoints and metrics into `run_dir/earlier-<n>`; None if there are none.

    A new run must not mix with them: a later resume would pick the other run's checkpoint if its step is higher, and
    rotation would count it.
    """
    run_dir = Path(run_dir)
    found = [*list_checkpoints(run_dir), *(path for name in _RUN_FILES if (path := run_dir / name).is_file())]
    if not any(path.is_dir() or path.name == "metrics.jsonl" for path in found):
        return None
    number = 1
    while os.path.lexists(run_dir / f"earlier-{number}"):
        number += 1
    folder = run_dir / f"earlier-{number}"
    folder.mkdir()
    for path in found:
        os.rename(path, folder / path.name)
    return folder


def _is_other_living_process(pid: int) -> bool:
    if pid == os.getpid():
        return False  # an earlier process had our number: we are not saving while we clean up
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
