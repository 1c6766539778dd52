"""Rotation keeps the newest intact and the best checkpoint; leftovers go, living writers and earlier runs stay."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from llmcore.training.checkpoint import load_newest, save_checkpoint
from llmcore.training.checkpoint_rotation import (
    remove_checkpoint,
    remove_leftovers,
    rotate_checkpoints,
    set_aside_earlier_run,
)


@pytest.fixture
def run_dir(tmp_path):
    for step in (1, 2, 3, 4, 5):
        save_checkpoint(tmp_path, step, {"model": {"w": np.full(8, step, np.float32)}}, {})
    return tmp_path


def names(run_dir):
    return sorted(entry.name for entry in run_dir.iterdir())


def test_oldest_go(run_dir):
    removed = rotate_checkpoints(run_dir, 2)
    assert [path.name for path in removed] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert names(run_dir) == ["checkpoint-4", "checkpoint-5"]
    assert rotate_checkpoints(run_dir, 2) == []


def test_the_best_stays(run_dir):
    rotate_checkpoints(run_dir, 2, protect=["/moved/since/checkpoint-2"])
    assert names(run_dir) == ["checkpoint-2", "checkpoint-5"]
    rotate_checkpoints(run_dir, 1, protect=["checkpoint-2"])
    assert names(run_dir) == ["checkpoint-2", "checkpoint-5"]


def test_the_newest_intact_one_stays(run_dir):
    for step in (4, 5):
        os.truncate(run_dir / f"checkpoint-{step}" / "model.safetensors", 9)
    rotate_checkpoints(run_dir, 1)
    assert "checkpoint-3" in names(run_dir)
    assert load_newest(run_dir).step == 3


def test_nothing_goes_if_none_is_intact(run_dir):
    for step in range(1, 6):
        (run_dir / f"checkpoint-{step}" / "manifest.json").unlink()
    assert rotate_checkpoints(run_dir, 1) == []
    assert len(names(run_dir)) == 5


def test_leftovers_go_and_what_was_moved_aside_comes_back(run_dir):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (run_dir / f".tmp-checkpoint-6-{dead.pid}-0123abcd").mkdir()
    (run_dir / f".tmp-checkpoint-6-{os.getpid()}-0123abcd").mkdir()
    (run_dir / f".tmp-checkpoint-6-{os.getppid()}-0123abcd").mkdir()
    (run_dir / ".trash-checkpoint-1-0123abcd").mkdir()
    (run_dir / ".tmp-notes").mkdir()
    (run_dir / "checkpoint-5").rename(run_dir / ".replaced-checkpoint-5-0123abcd")
    (run_dir / ".replaced-checkpoint-4-0123abcd").mkdir()
    removed = remove_leftovers(run_dir)
    assert len(removed) == 4
    assert names(run_dir) == [
        f".tmp-checkpoint-6-{os.getppid()}-0123abcd",
        ".tmp-notes",
        *(f"checkpoint-{step}" for step in (1, 2, 3, 4, 5)),
    ]
    assert load_newest(run_dir).step == 5


def test_leftover_that_is_a_link_is_not_followed(run_dir, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "keep").write_text("x")
    (run_dir / ".trash-checkpoint-9-0123abcd").symlink_to(outside)
    remove_leftovers(run_dir)
    assert (outside / "keep").exists()


def test_removed_checkpoint_loses_its_name_first(run_dir, monkeypatch):
    monkeypatch.setattr("shutil.rmtree", lambda path: None)  # as if killed there
    remove_checkpoint(run_dir / "checkpoint-5")
    assert load_newest(run_dir).step == 4


def test_earlier_run_is_set_aside(run_dir):
    (run_dir / "metrics.jsonl").write_text("{}\n")
    (run_dir / "model.safetensors").write_text("the finished model")
    assert set_aside_earlier_run(run_dir) == run_dir / "earlier-1"
    assert names(run_dir) == ["earlier-1", "model.safetensors"]
    assert len(names(run_dir / "earlier-1")) == 6
    assert set_aside_earlier_run(run_dir) is None
