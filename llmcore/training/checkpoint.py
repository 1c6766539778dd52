"""Checkpoints that survive a kill at any moment.

save: write everything into `.tmp-checkpoint-<step>-...`, fsync each file, `manifest.json` (sizes, sha256, crc32 per
tensor) last, fsync the folder, rename it to `checkpoint-<step>`, fsync the run folder. A folder of that name is
therefore complete or absent.

load: the newest folder whose manifest parses and whose content agrees with it; what is skipped is named with the
reason.

A checkpoint holds one `<group>.safetensors` per group of tensors (`model` is what transformers loads), one
`<name>.json` per entry of the state, whatever `write_extra` put there, and the manifest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmcore import tensor_file
from llmcore.errors import CheckpointError

logger = logging.getLogger("llmcore")

FORMAT = "llmcore-checkpoint"
VERSION = 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"checkpoint-(\d{1,18})")
_PLAIN_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")
_FINITE_PIECE = 1 << 22  # elements per finiteness check: bounds the temporary mask
_RESERVE = 1 << 20

Verify = Literal["full", "lazy", "off"]


@dataclasses.dataclass
class Checkpoint:
    """What was read from a checkpoint folder.

    `tensors` is group -> name -> array (bfloat16 as uint16 bit patterns), `state` the JSON entries by name, `skipped`
    the newer folders that were passed over, each with the reason.
    """

    path: Path
    step: int
    tensors: dict[str, dict[str, np.ndarray]]
    state: dict[str, Any]
    manifest: dict[str, Any]
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def save_checkpoint(
    run_dir: str | Path,
    step: int,
    tensors: Mapping[str, Mapping[str, np.ndarray]],
    state: Mapping[str, Any],
    write_extra: Callable[[Path], None] | None = None,
) -> Path:
    """Writes `run_dir/checkpoint-<step>` as a whole or not at all, and returns its path.

    Args:
        run_dir: an existing folder, not a link.
        step: the number of updates made.
        tensors: group -> name -> array; uint16 arrays are bfloat16 bit patterns.
        state: name -> anything that JSON can hold.
        write_extra: may write further files into the folder it is given.

    Raises CheckpointError if a tensor is not finite, if the disk is too full, if the run folder or the target is not
    a plain folder, or if writing fails; earlier checkpoints are untouched then.
    """
    run_dir = Path(run_dir)
    _check_run_dir(run_dir)
    target = run_dir / f"checkpoint-{int(step)}"
    _check_target(target)
    for group, members in tensors.items():
        for name, tensor in members.items():
            if not all_finite(tensor):
                raise CheckpointError(
                    f"checkpoint-{step} is refused: tensor {name!r} of {group} holds NaN or infinite values; the last "
                    "good checkpoint stays, resume from it with a lower learning rate or other data"
                )
    needed = sum(tensor_file.file_size(members) for members in tensors.values()) + _RESERVE
    _check_free_space(run_dir, needed, target.name)

    temporary = run_dir / f".tmp-{target.name}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        temporary.mkdir(mode=0o700)
        _write(temporary, step, tensors, state, write_extra)
        os.chmod(temporary, stat.S_IMODE(run_dir.stat().st_mode))
        _publish(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary)
        if isinstance(error, CheckpointError):
            raise
        free = shutil.disk_usage(run_dir).free
        raise CheckpointError(
            f"{target.name} could not be written ({error.strerror or error}); it needs {needed} bytes, {free} are "
            "free; earlier checkpoints are intact"
        ) from error
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary)
        raise
    return target


def _write(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, np.ndarray]],
    state: Mapping[str, Any],
    write_extra: Callable[[Path], None] | None,
) -> None:
    files, entries = [], []
    for group, members in tensors.items():
        file, listed = tensor_file.write_tensors(folder / _plain(f"{group}.safetensors"), members)
        files.append(file)
        entries += listed
    for name, value in state.items():
        files.append(_write_json(folder / _plain(f"{name}.json"), value))
    if write_extra is not None:
        write_extra(folder)
        known = {file["name"] for file in files}
        for path in sorted(folder.iterdir()):
            if path.name not in known:
                files.append(_adopt(path))
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "step": int(step),
        "finite": True,
        "groups": sorted(tensors),
        "state": sorted(state),
        "files": sorted(files, key=lambda file: file["name"]),
        "tensors": entries,
    }
    with tensor_file.HashedFile(folder / MANIFEST) as file:
        file.write(_manifest_bytes(manifest))
        file.close()
    _sync_folder(folder)


def _write_json(path: Path, value: Any) -> dict[str, Any]:
    with tensor_file.HashedFile(path) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())
        return file.close()


def _adopt(path: Path) -> dict[str, Any]:
    """The manifest entry of a file that `write_extra` made, after bringing it to the disk."""
    _plain(path.name)
    descriptor = tensor_file.open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        digest, size = _sha256(file)
        os.fsync(file.fileno())
    return {"name": path.name, "size": size, "sha256": digest}


def _manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    body = json.dumps(manifest, sort_keys=True)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return json.dumps({"manifest": manifest, "sha256": digest}, sort_keys=True, indent=1).encode() + b"\n"


def _publish(temporary: Path, target: Path) -> None:
    """Renames without ever replacing: what stands at the target is first moved aside, and comes back if that fails."""
    replaced = None
    if target.exists():
        replaced = target.with_name(f".replaced-{target.name}-{secrets.token_hex(4)}")
        os.rename(target, replaced)
    try:
        os.rename(temporary, target)
    except OSError:
        if replaced is not None:
            os.rename(replaced, target)
        raise
    _sync_folder(target.parent)
    if replaced is not None:
        shutil.rmtree(replaced)


def load_checkpoint(path: str | Path, verify: Verify = "full") -> Checkpoint:
    """Reads one checkpoint folder.

    `verify="full"` compares every byte with the manifest, `"lazy"` sizes and the state only, `"off"` nothing but the
    manifest itself. Raises CheckpointError with the file or tensor that is missing, incomplete or altered.
    """
    path = Path(path)
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise CheckpointError("it is not a folder")
        manifest = _read_manifest(path)
        sizes = {file["name"]: file for file in manifest["files"]}
        if verify != "off":
            for name, file in sizes.items():
                _check_file(path / name, file, full=verify == "full" and not name.endswith(".safetensors"))
        tensors = {}
        for group in manifest["groups"]:
            name = f"{group}.safetensors"
            crcs = {entry["name"]: entry["crc32"] for entry in manifest["tensors"] if entry["file"] == name}
            tensors[group], digest = tensor_file.read_hashed_tensors(path / name, crcs if verify == "full" else None)
            if verify == "full" and digest != sizes[name]["sha256"]:
                raise CheckpointError(f"{name} is altered (its sha256 differs from the manifest)")
        if verify == "full":
            for name, file in sizes.items():
                if name.endswith(".safetensors") and name[: -len(".safetensors")] not in tensors:
                    _check_file(path / name, file, full=True)
        state = {name: json.loads(tensor_file.read_bytes(path / f"{name}.json")) for name in manifest["state"]}
    except CheckpointError as error:
        raise CheckpointError(f"{path.name} cannot be used: {error}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path.name} cannot be used: {type(error).__name__}: {error}") from None
    return Checkpoint(path, manifest["step"], tensors, state, manifest)


def load_newest(run_dir: str | Path, verify: Verify = "full") -> Checkpoint | None:
    """The newest checkpoint of `run_dir` that can be used, None if there is none at all.

    Folders that are passed over are logged and listed in `.skipped`. Raises CheckpointError if there are checkpoints
    but none is intact.
    """
    skipped = []
    for path in reversed(list_checkpoints(run_dir)):
        try:
            checkpoint = load_checkpoint(path, verify)
        except CheckpointError as error:
            reason = str(error)
            logger.warning("skipped: %s", reason)
            skipped.append((path.name, reason))
            continue
        checkpoint.skipped = skipped
        return checkpoint
    if skipped:
        reasons = "; ".join(reason for _, reason in skipped)
        raise CheckpointError(f"none of the {len(skipped)} checkpoints in {run_dir} is intact: {reasons}")
    return None


def list_checkpoints(run_dir: str | Path) -> list[Path]:
    """The folders called `checkpoint-<step>`, lowest step first. Links are left out; content is not looked at."""
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(run_dir) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match and entry.is_dir(follow_symlinks=False):
                found.append((int(match[1]), Path(entry.path)))
    return [path for _, path in sorted(found)]


def checkpoint_step(path: str | Path) -> int:
    """The step in a checkpoint folder's name."""
    match = _NAME.fullmatch(Path(path).name)
    if match is None:
        raise CheckpointError(f"a checkpoint folder is called checkpoint-<step>, got {Path(path).name!r}")
    return int(match[1])


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not os.path.lexists(folder / MANIFEST):
        raise CheckpointError(f"{MANIFEST} is missing, so it was never completed")
    raw = tensor_file.read_bytes(folder / MANIFEST, limit=256 << 20)
    try:
        manifest = json.loads(raw)["manifest"]
        intact = _manifest_bytes(manifest) == raw  # one canonical form, so that no bit of the file is outside the check
    except (ValueError, KeyError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise CheckpointError(f"{MANIFEST} is incomplete or altered")
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise CheckpointError(
            f"{MANIFEST} describes {manifest.get('format')} version {manifest.get('version')}, this release reads "
            f"{FORMAT} version {VERSION}"
        )
    for file in manifest["files"]:
        _plain(file["name"])
    for stem in (*manifest["groups"], *manifest["state"]):
        _plain(f"{stem}.json")
    return manifest


def _check_file(path: Path, expected: Mapping[str, Any], full: bool) -> None:
    if not os.path.lexists(path):
        raise CheckpointError(f"{path.name} is missing")
    with os.fdopen(tensor_file.open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != expected["size"]:
            raise CheckpointError(f"{path.name} has {size} bytes, the manifest says {expected['size']}")
        if full and _sha256(file)[0] != expected["sha256"]:
            raise CheckpointError(f"{path.name} is altered (its sha256 differs from the manifest)")


def _sha256(file: Any) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while piece := file.read(1 << 20):
        digest.update(piece)
        size += len(piece)
    return digest.hexdigest(), size


def all_finite(tensor: np.ndarray) -> bool:
    """Whether no element is NaN or infinite; uint16 is read as bfloat16, other integers are always finite."""
    flat = tensor.reshape(-1)
    for start in range(0, flat.size, _FINITE_PIECE):
        piece = flat[start : start + _FINITE_PIECE]
        if tensor.dtype == np.uint16:
            if ((piece & 0x7F80) == 0x7F80).any():
                return False
        elif tensor.dtype.kind == "f" and not np.isfinite(piece).all():
            return False
    return True


def _plain(name: str) -> str:
    if not _PLAIN_FILE.fullmatch(name) or name == MANIFEST:
        raise CheckpointError(f"{name!r} is not a plain file name")
    return name


def _check_run_dir(run_dir: Path) -> None:
    try:
        mode = os.lstat(run_dir).st_mode
    except FileNotFoundError:
        raise CheckpointError(f"the run folder {run_dir} does not exist; create it first") from None
    if not stat.S_ISDIR(mode):
        raise CheckpointError(f"the run folder {run_dir} must be a plain folder, not a link or a file")


def _check_target(target: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.lstat(target).st_mode):
            raise CheckpointError(f"{target} is in the way: it is not a folder; move it elsewhere")


def _check_free_space(run_dir: Path, needed: int, name: str) -> None:
    free = shutil.disk_usage(run_dir).free
    if free < needed:
        raise CheckpointError(
            f"{name} needs {needed} bytes, {free} are free in {run_dir}; make room or lower save_total_limit; "
            "earlier checkpoints are intact"
        )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
