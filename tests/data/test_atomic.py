"""Whole or not at all; never through a symlink (S-06)."""

from __future__ import annotations

import errno
import os

import pytest

from llmcore.data.atomic import AtomicFile, make_directory, write_atomically
from llmcore.errors import DataError


def test_the_name_appears_at_commit(tmp_path):
    file = AtomicFile(tmp_path / "x")
    file.write(b"new")
    assert not (tmp_path / "x").exists()
    file.commit()
    assert (tmp_path / "x").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x"]
    file.discard()  # harmless afterwards


def test_an_exception_keeps_the_old_file(tmp_path):
    write_atomically(tmp_path / "x", b"old")
    with pytest.raises(RuntimeError), AtomicFile(tmp_path / "x") as file:
        file.write(b"half")
        raise RuntimeError
    assert (tmp_path / "x").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_orphans_of_a_killed_writer_go_and_living_ones_stay(tmp_path):
    (tmp_path / ".x.0123456789abcdef.tmp").write_bytes(b"left by a kill -9")
    (tmp_path / ".y.0123456789abcdef.tmp").write_bytes(b"another name's")
    living = AtomicFile(tmp_path / "x")
    write_atomically(tmp_path / "x", b"second")
    living.write(b"first")
    living.commit()
    assert (tmp_path / "x").read_bytes() == b"first"
    assert sorted(os.listdir(tmp_path)) == [".y.0123456789abcdef.tmp", "x"]


def test_symlinks_are_refused_and_their_targets_untouched(tmp_path):
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "target", tmp_path / "link")
    os.symlink(tmp_path / "real", tmp_path / "linked_directory")
    with pytest.raises(DataError, match="symbolic link"):
        write_atomically(tmp_path / "link", b"x")
    with pytest.raises(DataError, match="symbolic link.*Give the real path"):
        write_atomically(tmp_path / "linked_directory" / "x", b"x")
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert os.listdir(tmp_path / "real") == []


def test_a_link_that_appears_while_writing(tmp_path):
    (tmp_path / "target").write_bytes(b"precious")
    with pytest.raises(DataError, match="symbolic link"), AtomicFile(tmp_path / "x") as file:
        file.write(b"x")
        os.symlink(tmp_path / "target", tmp_path / "x")
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["target", "x"]


def test_fifo_directory_and_missing_parent(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DataError, match="not a regular file"):
        write_atomically(tmp_path / "fifo", b"x")
    with pytest.raises(DataError, match="not a regular file"):
        (tmp_path / "folder").mkdir()
        write_atomically(tmp_path / "folder", b"x")
    with pytest.raises(DataError, match="does not exist"):
        write_atomically(tmp_path / "missing" / "x", b"x")
    with pytest.raises(DataError, match="cannot be a directory"):
        make_directory(tmp_path / "fifo" / "x")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_leaves_nothing(tmp_path, monkeypatch, call):
    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_atomically(tmp_path / "x", b"old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises((DataError, OSError)):
        write_atomically(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_full_disk_is_named():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    file = AtomicFile.__new__(AtomicFile)
    file.path, file._directory = "shard.bin", os.open("/", os.O_RDONLY)
    file.file = open("/dev/full", "wb", buffering=0)
    with pytest.raises(DataError, match="the disk is full"):
        file.write(b"x")
    os.close(file._directory)
    file.file.close()
