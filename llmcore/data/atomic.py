"""Files that appear whole or not at all.

The bytes go to a temporary file in the same directory, which is fsynced and then renamed over the final name; the
directory is fsynced last. A crash leaves the old file, or none. The directory is held open and every name is resolved
relative to it, so that nobody can slide a symlink under the path while the file is being written; nothing is ever
written through a symlink.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar

from llmcore.errors import DataError

_BUFFER_BYTES = 1 << 20

Construction = TypeVar("Construction", bound="Commits")


class Commits:
    """Something under construction. As a context manager it is committed at the end, and discarded on an exception."""

    def commit(self) -> None:
        """Make it whole and durable."""
        raise NotImplementedError

    def discard(self) -> None:
        """Leave no trace. Does nothing after `commit()`."""
        raise NotImplementedError

    def __enter__(self: Construction) -> Construction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.discard()


class AtomicFile(Commits):
    """A binary file under construction.

    Use as a context manager (commits at the end, discards on an exception), or call `commit()` / `discard()`.
    Raises DataError where the directory or the final path is a symlink or not what it should be, or the disk is full.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._directory = _open_directory(self.path.parent)
        try:
            self._refuse_special_target()
            self._remove_orphans()
            self._temporary = f".{self.path.name}.{secrets.token_hex(8)}.tmp"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._temporary, flags, 0o644, dir_fd=self._directory)
        except BaseException:
            os.close(self._directory)
            raise
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # says "in use" to _remove_orphans of other processes
        self.file: BinaryIO = os.fdopen(descriptor, "w+b", buffering=_BUFFER_BYTES)

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`. Raises DataError when the disk is full."""
        try:
            self.file.write(data)
        except OSError as error:
            raise self._explain(error) from error

    def commit(self) -> None:
        """Make the file durable and give it its name."""
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise self._explain(error) from error
        self._refuse_special_target()
        os.replace(self._temporary, self.path.name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        os.fsync(self._directory)
        self._close()

    def discard(self) -> None:
        """Forget the file; what was under the final name stays. Does nothing after `commit()`."""
        if self.file.closed:
            return
        os.unlink(self._temporary, dir_fd=self._directory)
        self._close()

    def _close(self) -> None:
        try:
            self.file.close()
        except OSError:
            pass  # only after discard on a full disk: the buffered rest has nowhere to go
        os.close(self._directory)

    def _refuse_special_target(self) -> None:
        try:
            mode = os.stat(self.path.name, dir_fd=self._directory, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISREG(mode):
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
            raise DataError(f"{self.path} exists and is {kind}; nothing was written. Remove it or choose another name.")

    def _remove_orphans(self) -> None:
        """Delete what a killed run left: temporary files of this name whose writer no longer holds the lock."""
        pattern = re.compile(re.escape(f".{self.path.name}.") + r"[0-9a-f]{16}\.tmp")
        for name in os.listdir(self._directory):
            if not pattern.fullmatch(name):
                continue
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                descriptor = os.open(name, flags, dir_fd=self._directory)
            except OSError:
                continue  # gone meanwhile, a symlink, or somebody else's
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(name, dir_fd=self._directory)
            except OSError:
                pass
            finally:
                os.close(descriptor)

    def _explain(self, error: OSError) -> DataError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            space = os.fstatvfs(self._directory)
            free = space.f_bavail * space.f_frsize
            return DataError(f"{self.path}: the disk is full ({free:,} bytes free); nothing was left under that name.")
        return DataError(f"{self.path}: writing failed: {error.strerror}; nothing was left under that name.")


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a whole small file. Raises DataError as `AtomicFile` does."""
    with AtomicFile(path) as file:
        file.write(data)


def make_directory(path: str | os.PathLike[str]) -> Path:
    """Create the directory and its parents. Raises DataError where something else has the name."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"{path} cannot be a directory: a file of that name, or of a parent's name, exists.") from error
    return path


def _open_directory(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise DataError(f"the directory {path} does not exist; create it first.") from None
    except OSError as error:
        if path.is_symlink():
            raise DataError(
                f"{path} is a symbolic link; nothing was written. Give the real path, {path.resolve()}."
            ) from error
        raise DataError(f"{path} cannot be opened as a directory: {error.strerror}.") from error
