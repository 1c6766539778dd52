"""Checkpoints: whole or absent after a kill, alterations refused, disk errors harmless (R-01 R-04 R-05 S-06)."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from llmcore.errors import CheckpointError
from llmcore.training import checkpoint as module
from llmcore.training.checkpoint import list_checkpoints, load_checkpoint, load_newest, save_checkpoint
from llmcore.training.checkpoint_rotation import remove_leftovers


def content(step: int, size: int = 64):
    generator = np.random.default_rng(step)
    tensors = {
        "model": {
            "w": generator.standard_normal((size, 3)).astype(np.float32),
            "h": (np.arange(size) % 1000).astype(np.uint16),
        },
        "optimizer": {"w.exp_avg": generator.standard_normal((size, 3)).astype(np.float32)},
    }
    return tensors, {"trainer_state": {"global_step": step, "loss": 0.1 + 0.2}, "loader_state": {"epoch": 1}}


def save(run_dir, step, **options):
    return save_checkpoint(run_dir, step, *content(step), **options)


def assert_is(checkpoint, step, size=64):
    tensors, state = content(step, size)
    assert checkpoint.step == step and checkpoint.state == state
    assert set(checkpoint.tensors) == set(tensors)
    for group, members in tensors.items():
        for name, tensor in members.items():
            np.testing.assert_array_equal(checkpoint.tensors[group][name], tensor)


def test_round_trip_with_extra_files(tmp_path):
    path = save(tmp_path, 7, write_extra=lambda folder: (folder / "config.json").write_text('{"a": 1}'))
    assert path == tmp_path / "checkpoint-7"
    assert_is(load_checkpoint(path), 7)
    assert_is(load_newest(tmp_path), 7)
    assert (path / "config.json").read_text() == '{"a": 1}'
    assert path.stat().st_mode == tmp_path.stat().st_mode
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-7"]


def test_newest_is_by_number_and_none_if_there_is_none(tmp_path):
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "missing") is None
    for step in (9, 10, 100):
        save(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert load_newest(tmp_path).step == 100


def test_older_intact_one_wins_and_the_skipped_one_is_named(tmp_path, caplog):
    save(tmp_path, 10)
    newer = save(tmp_path, 20)
    os.truncate(newer / "model.safetensors", 100)
    found = load_newest(tmp_path)
    assert_is(found, 10)
    assert found.skipped[0][0] == "checkpoint-20" and "model.safetensors has 100 bytes" in found.skipped[0][1]
    assert "checkpoint-20" in caplog.text
    (tmp_path / "checkpoint-10" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints.*manifest.json is missing"):
        load_newest(tmp_path)


def test_saving_a_step_again_replaces_it(tmp_path):
    path = save(tmp_path, 5)
    (path / "model.safetensors").write_bytes(b"junk")
    assert_is(load_checkpoint(save(tmp_path, 5)), 5)
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-5"]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "trainer_state.json", "manifest.json", "config.json"]
)
def test_every_truncation_and_bit_flip_is_refused_by_name(tmp_path, name):
    save_checkpoint(
        tmp_path, 1, *content(1, size=6), write_extra=lambda folder: (folder / "config.json").write_text("{}\n")
    )
    path = tmp_path / "checkpoint-1" / name
    intact = path.read_bytes()
    for length in range(len(intact)):
        path.write_bytes(intact[:length])
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            load_checkpoint(path.parent)
    chooser = random.Random(0)
    for position in range(len(intact)):
        flipped = bytearray(intact)
        flipped[position] ^= 1 << chooser.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            load_checkpoint(path.parent)
    path.write_bytes(intact)
    assert load_checkpoint(path.parent).step == 1


def test_missing_file_is_named(tmp_path):
    path = save(tmp_path, 1)
    (path / "optimizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match="optimizer.safetensors is missing"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_tensor_is_refused_by_name(tmp_path, value):
    save(tmp_path, 1)
    tensors, state = content(2)
    tensors["optimizer"]["w.exp_avg"][3, 1] = value
    with pytest.raises(CheckpointError, match="'w.exp_avg' of optimizer holds NaN"):
        save_checkpoint(tmp_path, 2, tensors, state)
    tensors, state = content(2)
    tensors["model"]["h"][5] = np.float32(value).view(np.uint32) >> 16
    with pytest.raises(CheckpointError, match="'h' of model holds NaN"):
        save_checkpoint(tmp_path, 2, tensors, state)
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-1"]


def test_free_space_is_checked_before_anything_is_written(tmp_path, monkeypatch):
    save(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    monkeypatch.setattr(module.tensor_file, "HashedFile", None)  # would fail if anything were opened
    with pytest.raises(CheckpointError, match=r"needs \d+ bytes, 1000 are free"):
        save(tmp_path, 2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-1"]


@pytest.mark.parametrize("call", ["write", "fsync", "open", "rename", "mkdir"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_error_in_every_nth_call_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, call, number):
    save(tmp_path, 1)
    original, calls, fail_at = getattr(os, call), 0, 1

    def failing(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OSError(number, os.strerror(number))
        return original(*args, **kwargs)

    for fail_at in range(1, 100):  # noqa: B007 (read by the closure)
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                save(tmp_path, 2)
            except CheckpointError as error:
                assert os.strerror(number) in str(error) and "are free" in str(error)
            else:
                break
        newest = load_newest(tmp_path)
        # an error after the rename (fsync of the run folder) leaves the new one, whole
        assert_is(newest, newest.step)
        remove_leftovers(tmp_path)
        shutil.rmtree(tmp_path / "checkpoint-2", ignore_errors=True)
    assert fail_at > 1
    assert_is(load_newest(tmp_path), 2)


def test_short_writes_are_continued(tmp_path, monkeypatch):
    original = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: original(descriptor, data[: max(1, len(data) // 3)]))
    save(tmp_path, 3)
    monkeypatch.undo()
    assert_is(load_newest(tmp_path), 3)


def test_full_disk(tmp_path):
    """A real, small file system, where mounting one is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        save(disk, 1)
        with open(disk / "filler", "wb") as filler:
            filler.write(b"x" * 600_000)
        tensors, state = content(2, size=6_000)

        def fill(folder):
            (folder / "big").write_bytes(b"x" * 3_000_000)

        with pytest.raises(CheckpointError, match="No space left.*are free"):
            save_checkpoint(disk, 2, tensors, state, write_extra=fill)
        with pytest.raises(CheckpointError, match="are free in"):
            save_checkpoint(disk, 2, *content(2, size=100_000))
        assert_is(load_newest(disk), 1)
        assert sorted(entry.name for entry in disk.iterdir()) == ["checkpoint-1", "filler"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_link_and_fifo_in_the_way_are_refused(tmp_path):
    run_dir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run_dir.mkdir()
    elsewhere.mkdir()
    (run_dir / "checkpoint-1").symlink_to(elsewhere)
    os.mkfifo(run_dir / "checkpoint-2")
    for step in (1, 2):
        with pytest.raises(CheckpointError, match="in the way"):
            save(run_dir, step)
    assert list(elsewhere.iterdir()) == []
    assert list_checkpoints(run_dir) == []
    (tmp_path / "link").symlink_to(run_dir)
    with pytest.raises(CheckpointError, match="plain folder"):
        save(tmp_path / "link", 3)
    with pytest.raises(CheckpointError, match="does not exist"):
        save(tmp_path / "missing", 3)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_not_a_file_is_never_opened(tmp_path, kind):
    path = save(tmp_path, 1)
    victim = path / "trainer_state.json"
    kept = victim.rename(tmp_path / "outside.json")
    if kind == "link":
        victim.symlink_to(kept)
    elif kind == "fifo":
        os.mkfifo(victim)
    else:
        victim.mkdir()
    with pytest.raises(CheckpointError, match="trainer_state.json (cannot be opened|is not a regular file)"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "", ".hidden", "manifest.json", "a\0b", "a\nb"])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    path = save(tmp_path, 1)
    manifest = module._read_manifest(path)
    manifest["files"][0]["name"] = name
    (path / "manifest.json").write_bytes(module._manifest_bytes(manifest))
    with pytest.raises(CheckpointError, match="not a plain file name"):
        load_checkpoint(path)


def test_lazy_reads_sizes_and_state(tmp_path):
    path = save(tmp_path, 1)
    raw = bytearray((path / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (path / "model.safetensors").write_bytes(raw)
    with pytest.raises(CheckpointError, match="model.safetensors: tensor 'w' is altered"):
        load_checkpoint(path)
    assert load_checkpoint(path, verify="lazy").step == 1
    os.truncate(path / "model.safetensors", len(raw) - 1)
    with pytest.raises(CheckpointError, match="the manifest says"):
        load_checkpoint(path, verify="lazy")


CALLS = ("open", "write", "fsync", "close", "rename", "mkdir", "chmod", "replace", "rmdir", "unlink")


def die_at(nth: int, run_dir) -> bool:
    """Saves step 2 in a child process that dies before its nth system call; whether it got through without dying."""
    child = os.fork()
    if child == 0:
        remaining = nth

        def dying(original):
            def call(*args, **kwargs):
                nonlocal remaining
                remaining -= 1
                if remaining == 0:
                    os._exit(9)
                return original(*args, **kwargs)

            return call

        for name in CALLS:
            setattr(os, name, dying(getattr(os, name)))
        save(run_dir, 2)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("replacing", [False, True])
def test_death_before_every_nth_system_call(tmp_path, replacing):
    """R-03: whatever the moment, the next start finds the old or the new checkpoint, whole, and no leftovers."""
    for nth in range(1, 200):
        run_dir = tmp_path / str(nth)
        run_dir.mkdir()
        save(run_dir, 1)
        if replacing:
            save(run_dir, 2)
        through = die_at(nth, run_dir)
        remove_leftovers(run_dir)
        newest = load_newest(run_dir)
        assert not newest.skipped
        assert_is(newest, newest.step)
        assert newest.step == 2 or not (through or replacing)
        assert all(entry.name in ("checkpoint-1", "checkpoint-2") for entry in run_dir.iterdir())
        if through:
            break
    assert 15 < nth < 199


SAVER = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from test_checkpoint import content
from llmcore.training.checkpoint import load_newest, save_checkpoint
from llmcore.training.checkpoint_rotation import remove_leftovers, rotate_checkpoints
run_dir = Path({run_dir!r})
remove_leftovers(run_dir)
found = load_newest(run_dir)
step = found.step if found else 0
print("ready", flush=True)
while True:
    step += 1
    save_checkpoint(run_dir, step, *content(step, size=20_000))
    print(step, flush=True)
    rotate_checkpoints(run_dir, 2)
"""


def test_kill_at_random_instants(tmp_path):
    """R-01: after kill -9 at any moment the newest acknowledged checkpoint, or a newer one, is what was saved."""
    tests = os.path.dirname(os.path.abspath(__file__))
    source = SAVER.format(root=os.path.dirname(os.path.dirname(tests)), tests=tests, run_dir=str(tmp_path))
    chooser, acknowledged = random.Random(1), 0
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        # wait for some saves, then die somewhere in the next one: no matter how slow the machine is
        lines = [process.stdout.readline() for _ in range(chooser.randrange(3))]
        time.sleep(chooser.uniform(0.0, 0.02))
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().split()
        process.wait()
        process.stdout.close()
        acknowledged = max([acknowledged, *map(int, lines)])
        newest = load_newest(tmp_path)
        if acknowledged:
            assert newest.step >= acknowledged and not newest.skipped
            assert_is(newest, newest.step, size=20_000)
    assert acknowledged >= 10
    remove_leftovers(tmp_path)
    assert all(entry.name.startswith("checkpoint-") for entry in tmp_path.iterdir())
