"""What a path, a folder, a pattern means, and what is said when it means nothing."""

from __future__ import annotations

import os

import pytest

from llmcore.data.sources import expand_sources, suffix_of
from llmcore.errors import DataError


@pytest.fixture
def tree(tmp_path):
    for name in ("b.txt", "a.txt", "sub/c.md", "sub/deep/d.jsonl", ".hidden.txt", ".git/e.txt", "picture.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return tmp_path


def names(tree, *sources):
    return [os.path.relpath(file, tree) for file in expand_sources([str(source) for source in sources])]


def test_folder_is_recursive_sorted_and_without_hidden_files(tree):
    assert names(tree, tree) == ["a.txt", "b.txt", "sub/c.md", "sub/deep/d.jsonl"]


def test_patterns(tree):
    assert names(tree, tree / "*.txt") == ["a.txt", "b.txt"]
    assert names(tree, tree / "**/*.md") == ["sub/c.md"]
    assert names(tree, tree / "su*") == ["sub/c.md", "sub/deep/d.jsonl"]


def test_a_file_named_twice_is_read_once(tree):
    os.symlink(tree / "a.txt", tree / "link.txt")
    assert names(tree, tree / "a.txt", tree / "*.txt") == ["a.txt", "b.txt"]


def test_a_named_file_needs_no_known_suffix(tree):
    (tree / "README").write_text("x")
    assert names(tree, tree / "README") == ["README"]


def test_a_file_whose_name_looks_like_a_pattern(tree):
    (tree / "a[1].txt").write_text("x")
    assert names(tree, tree / "a[1].txt") == ["a[1].txt"]


def test_link_cycles_end(tree):
    os.symlink(tree, tree / "sub/loop")
    assert len(names(tree, tree)) == 4


@pytest.mark.parametrize(
    "source, message",
    [
        ("missing.txt", "does not exist"),
        ("b.tx", r"Did you mean '.*b\.txt'"),
        ("*.rst", "matches no file"),
        ("table.parquet", "convert it to JSON Lines"),
        ("empty", "holds no text files .found: nothing"),
        ("pictures", r"found: 1 x \.png"),
    ],
)
def test_errors_say_what_was_found(tree, source, message):
    (tree / "table.parquet").write_text("x")
    (tree / "empty").mkdir()
    (tree / "pictures").mkdir()
    (tree / "pictures/x.png").write_text("x")
    with pytest.raises(DataError, match=message):
        expand_sources(str(tree / source))


def test_no_sources_at_all():
    with pytest.raises(DataError, match="no sources"):
        expand_sources([])


def test_suffix_looks_through_gz():
    assert [suffix_of(name) for name in ("a.JSONL.gz", "a.txt", "gz", "a.gz")] == [".jsonl", ".txt", "", ""]
