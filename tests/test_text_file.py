"""A small file is there as a whole or not at all."""

from __future__ import annotations

import os

import pytest

from llmcore.text_file import write_text


def test_replaces_and_leaves_nothing_else(tmp_path):
    write_text(tmp_path / "a.json", "old")
    write_text(str(tmp_path / "a.json"), "new \u00fc\n")
    assert (tmp_path / "a.json").read_bytes() == "new \u00fc\n".encode()
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_what_fails_leaves_the_old_content(tmp_path, monkeypatch, call):
    write_text(tmp_path / "a.json", "old")

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "shared" / "real.json")
    write_text(tmp_path / "link.json", "text")
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "shared" / "real.json").read_text() == "text"
