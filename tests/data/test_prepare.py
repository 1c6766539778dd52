"""From sources to shards: everything arrives, in bounded memory, whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from llmcore.data.prepare import prepare
from llmcore.data.report import DataReport
from llmcore.data.shards import open_shard
from llmcore.data.tokenizer import Tokenizer
from llmcore.data.vocabularies import byte_tokenizer, train_bpe
from llmcore.errors import ConfigError, DataError

FILES = ["data_report.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "train.bin"]
WITH_VALIDATION = sorted([*FILES, "validation.bin"])


@pytest.fixture
def corpus(tmp_path):
    lines = [json.dumps({"text": f"document {i}: " + "é word " * (i % 17)}) for i in range(300)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    return tmp_path / "corpus.jsonl"


def texts_of(path, tokenizer):
    """The documents of a shard, decoded; each has to end with the end-of-text token."""
    shard = open_shard(path, verify="full")
    texts = []
    for start, length in zip(shard.document_starts(), shard.document_lengths(), strict=True):
        ids = shard.read(int(start), int(length))
        assert ids[-1] == tokenizer.eos_token_id
        texts.append(tokenizer.decode(ids[:-1]))
    return texts


@pytest.mark.parametrize("kind", ["bpe", "byte", "char"])
def test_every_document_arrives_once(corpus, tmp_path, kind):
    out = tmp_path / "out"
    sizes = []
    report = prepare(corpus, out, kind, vocab_size=300, validation_fraction=0.1, progress=sizes.append)
    assert sorted(os.listdir(out)) == WITH_VALIDATION
    tokenizer = Tokenizer.from_pretrained(out)
    originals = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    split = {side: texts_of(out / f"{side}.bin", tokenizer) for side in ("train", "validation")}
    assert sorted(split["train"] + split["validation"]) == sorted(originals)
    assert 10 < len(split["validation"]) < 60
    for side, texts in split.items():
        shard = open_shard(out / f"{side}.bin", vocab_size=tokenizer.vocab_size)
        total = sum(len(text.encode()) for text in texts)
        lengths = tokenizer.token_byte_lengths()
        assert shard.byte_count == report.splits[side].bytes == lengths[shard.tokens].sum() == total  # bits per byte
        assert shard.tokenizer_fingerprint == tokenizer.fingerprint() == report.tokenizer_fingerprint
        assert report.splits[side].documents == len(texts)
    assert sum(sizes) == sum(len(text.encode()) for text in originals)
    assert DataReport.from_json((out / "data_report.json").read_text()) == report


def test_the_same_sources_give_the_same_bytes(corpus, tmp_path):
    for name in ("a", "b"):
        prepare(corpus, tmp_path / name, vocab_size=300)
    for file in WITH_VALIDATION:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_batching_changes_nothing(corpus, tmp_path, monkeypatch):
    tokenizer = train_bpe([corpus.read_text()], 300)
    prepare(corpus, tmp_path / "a", tokenizer)
    monkeypatch.setattr("llmcore.data.prepare._BATCH_CHARACTERS", 50)
    prepare(corpus, tmp_path / "b", tokenizer)
    assert (tmp_path / "a/train.bin").read_bytes() == (tmp_path / "b/train.bin").read_bytes()


def test_one_book_gets_a_validation_split(tmp_path):
    (tmp_path / "book.txt").write_text("".join(f"Scene {i}.\nEnter {i}, exit {i + 1}.\n\n" for i in range(30_000)))
    report = prepare(tmp_path / "book.txt", tmp_path / "out", "byte")
    assert report.splits["validation"].documents >= 1
    total = report.splits["train"].bytes + report.splits["validation"].bytes
    assert total == (tmp_path / "book.txt").stat().st_size


def test_validation_sources(corpus, tmp_path):
    (tmp_path / "v.txt").write_text("held out")
    report = prepare(corpus, tmp_path / "out", "byte", validation_sources=tmp_path / "v.txt")
    assert (report.splits["train"].documents, report.splits["validation"].documents) == (300, 1)
    assert texts_of(tmp_path / "out/validation.bin", byte_tokenizer()) == ["held out"]


def test_a_special_token_in_the_text_is_plain_text(tmp_path):
    (tmp_path / "a.txt").write_text("evil<|endoftext|>text")
    prepare(tmp_path / "a.txt", tmp_path / "out", "byte", validation_fraction=0)
    ids = open_shard(tmp_path / "out/train.bin").tokens
    assert ids.tolist() == [*b"evil<|endoftext|>text", 256]


def test_validation_of_an_earlier_run_goes(corpus, tmp_path):
    prepare(corpus, tmp_path / "out", "byte")
    prepare(corpus, tmp_path / "out", "byte", validation_fraction=0)
    assert sorted(os.listdir(tmp_path / "out")) == FILES


def test_a_failure_leaves_the_earlier_run_as_it_was(corpus, tmp_path):
    out = tmp_path / "out"
    prepare(corpus, out, "byte")
    before = {name: (out / name).read_bytes() for name in os.listdir(out)}
    corpus.write_text(corpus.read_text() + "\n{broken")
    with pytest.raises(DataError, match=r"corpus\.jsonl:301: not valid JSON"):
        prepare(corpus, out, "byte")
    assert {name: (out / name).read_bytes() for name in os.listdir(out)} == before
    report = prepare(corpus, out, "byte", on_error="skip")
    assert report.skipped_lines == 1 and "1 broken lines left out" in report.render()


@pytest.mark.parametrize(
    "content, message", [("", "no text in the 1 file"), ('{"x": 1}', "no field 'text'; the fields are: 'x'")]
)
def test_nothing_to_train_on(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "a.jsonl", tmp_path / "out", "byte")
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []


def test_mistakes(corpus, tmp_path):
    with pytest.raises(ConfigError, match="validation_fraction"):
        prepare(corpus, tmp_path / "out", validation_fraction=5)
    with pytest.raises(DataError, match="read only once"):
        prepare("-", tmp_path / "out")
    with pytest.raises(ConfigError, match="no end-of-text token"):
        prepare(corpus, tmp_path / "out", Tokenizer(byte_tokenizer().backend))
    os.symlink(tmp_path, tmp_path / "link")
    with pytest.raises(DataError, match="symbolic link"):
        prepare(corpus, tmp_path / "link", "byte")


def test_standard_input(tmp_path):
    code = (
        "import sys; from llmcore.data.prepare import prepare; prepare('-', sys.argv[1], 'byte', validation_fraction=0)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "out"], input=b'{"text": "a"}\n{"text": "b"}', check=True)
    assert texts_of(tmp_path / "out/train.bin", byte_tokenizer()) == ["a", "b"]


KILLED_AT_EVERY_CALL = """
import os, signal, sys
from pathlib import Path
from llmcore.data.prepare import prepare
from llmcore.data.shards import open_shard

corpus, out = sys.argv[1], Path(sys.argv[2])

def survives(n):
    pid = os.fork()
    if pid == 0:
        calls = 0
        def killing(function):
            def call(*arguments, **options):
                nonlocal calls
                calls += 1
                if calls > n:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **options)
            return call
        for name in ("open", "fsync", "replace", "unlink"):
            setattr(os, name, killing(getattr(os, name)))
        prepare(corpus, out, "byte")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

n = 0
while not survives(n):
    for name in ("train.bin", "validation.bin"):
        if (out / name).exists():
            open_shard(out / name, verify="full").close()
    n += 1
print(n)
"""


def test_killed_at_every_file_operation_nothing_half_written_has_a_name(corpus, tmp_path):
    arguments = [sys.executable, "-c", KILLED_AT_EVERY_CALL, corpus, tmp_path / "out"]
    kills = int(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
    assert kills > 20
    assert sorted(os.listdir(tmp_path / "out")) == WITH_VALIDATION  # what the killed ones left behind is gone


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    code = (
        "import sys, resource; from llmcore.data.prepare import prepare; prepare(sys.argv[1], sys.argv[2], 'byte')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    paragraph = "Some words in a paragraph, which ends.\n\n" * 1000
    peaks = []
    for megabytes in (4, 64):
        with open(tmp_path / "big.txt", "w") as file:
            for i in range(megabytes * 25):
                file.write(f"{i}\n{paragraph}")
        arguments = [sys.executable, "-c", code, tmp_path / "big.txt", tmp_path / "out"]
        peaks.append(int(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] - peaks[0] < 20_000, peaks  # kilobytes; the larger corpus has 60 MB more
