"""The wrapper: transformers' call, transformers' files in both directions, exact byte lengths, hostile input."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from llmcore.data.tokenizer import END_OF_TEXT, AutoTokenizer, Tokenizer
from llmcore.data.vocabularies import byte_tokenizer, char_tokenizer, train_bpe
from llmcore.errors import ConfigError, DataError

TEXT = "The quick brown fox jumps over the lazy dog.\n\nDef f(x):\n    return x ** 2  # é 中文 \U0001f600\r\n\0"
MAKERS = {
    "bpe": lambda: train_bpe([TEXT] * 3, 300),
    "byte": byte_tokenizer,
    "char": lambda: char_tokenizer(["The quick brown fox jumps over the lazy dog.\n é"]),
}
HOSTILE = [
    "",
    " ",
    "\0",
    "\r\n\r",
    "\ufeffx",
    "e\u0301" * 50,
    "\U0001f468\u200d\U0001f469",
    "▁a <0x41> Ġ",
    "<|endoftext|>",
    "a" * 5000,
]


@pytest.fixture(params=MAKERS, scope="module")
def tokenizer(request):
    return MAKERS[request.param]()


@pytest.mark.parametrize("text", [TEXT, *HOSTILE])
def test_lossless_and_byte_lengths_add_up(tokenizer, text):
    ids = tokenizer.encode(text, split_special_tokens=True)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_byte_lengths()[ids].sum() == len(text.encode())


def test_special_tokens_are_recognised_unless_told_otherwise(tokenizer):
    eos = tokenizer.eos_token_id
    assert tokenizer.encode("a" + END_OF_TEXT)[-1] == eos
    assert eos not in tokenizer.encode("a" + END_OF_TEXT, split_special_tokens=True)
    assert tokenizer.token_byte_lengths()[eos] == 0
    assert tokenizer.all_special_ids == [eos]
    assert tokenizer.decode([eos], skip_special_tokens=True) == ""


def test_lone_surrogates_are_replaced(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_batch_equals_single(tokenizer):
    texts = [TEXT, "", "a", TEXT[::-1]]
    for split in (True, False):
        rows = tokenizer.encode_batch(texts, split_special_tokens=split)
        assert [row.tolist() for row in rows] == [
            tokenizer.encode(t, split_special_tokens=split).tolist() for t in texts
        ]


def test_only_strings(tokenizer):
    with pytest.raises(TypeError, match="strings, got bytes"):
        tokenizer.encode(b"bytes")


def test_vocabulary(tokenizer):
    assert len(tokenizer) == tokenizer.vocab_size == len(tokenizer.token_byte_lengths())
    assert tokenizer.convert_ids_to_tokens(tokenizer.eos_token_id) == END_OF_TEXT
    assert tokenizer.convert_tokens_to_ids(["no such token", END_OF_TEXT]) == [None, tokenizer.eos_token_id]


# ---- the call ----


def test_call_returns_lists_or_arrays():
    tokenizer = byte_tokenizer()
    assert tokenizer("ab") == {"input_ids": [97, 98], "attention_mask": [1, 1]}
    assert tokenizer(["ab", "c"]) == {"input_ids": [[97, 98], [99]], "attention_mask": [[1, 1], [1]]}
    arrays = tokenizer(["ab", "c"], padding=True, return_tensors="np")
    assert arrays.input_ids.tolist() == [[97, 98], [99, 256]] and arrays.input_ids.dtype == np.int32
    assert arrays["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert tokenizer("ab", return_tensors="np").input_ids.shape == (1, 2)
    assert tokenizer.encode("ab", return_tensors="np").tolist() == [[97, 98]]
    assert list(tokenizer("ab", return_attention_mask=False)) == ["input_ids"]


def test_padding_and_truncation_options():
    tokenizer = byte_tokenizer()
    assert tokenizer("abc", truncation=True, max_length=2).input_ids == [97, 98]
    assert tokenizer("abc", padding="max_length", max_length=5).attention_mask == [1, 1, 1, 0, 0]
    assert tokenizer(["abc"], padding=True, pad_to_multiple_of=4).input_ids == [[97, 98, 99, 256]]
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    assert tokenizer("abc", truncation=True, max_length=2).input_ids == [98, 99]
    assert tokenizer(["a", "bc"], padding=True).input_ids == [[256, 97], [98, 99]]
    tokenizer.model_max_length = 1
    assert tokenizer("abc", truncation=True).input_ids == [99]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"return_tensors": "pt"}, 'Write return_tensors="np"'),
        ({"return_tensors": "numpy"}, "must be None or"),
        ({"return_tensors": "np"}, "use padding=True"),
        ({"padding": "max_length"}, "needs max_length="),
        ({"padding": "maximum"}, "padding must be"),
    ],
)
def test_mistakes_in_the_call(options, message):
    with pytest.raises(ConfigError, match=message):
        byte_tokenizer()(["ab", "c"], **options)


def test_truncation_without_a_limit_warns_and_keeps_all(caplog):
    assert byte_tokenizer()("abc", truncation=True).input_ids == [97, 98, 99]
    assert "nothing is truncated" in caplog.text


def test_truncation_keeps_the_special_tokens_around_the_text():
    vocabulary = {"[CLS]": 0, "[SEP]": 1, "a": 2, "b": 3, "c": 4}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[SEP]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    tokenizer = Tokenizer(backend, eos_token="[SEP]")
    assert tokenizer("a b c").input_ids == [0, 2, 3, 4, 1]
    assert tokenizer("a b c", truncation=True, max_length=4).input_ids == [0, 2, 3, 1]
    assert tokenizer("a b c", add_special_tokens=False, truncation=True, max_length=2).input_ids == [2, 3]


def test_no_token_to_pad_with():
    tokenizer = Tokenizer(byte_tokenizer().backend)
    with pytest.raises(ConfigError, match="set tokenizer.pad_token"):
        tokenizer(["a", "bc"], padding=True)
    tokenizer.pad_token = END_OF_TEXT
    assert tokenizer.pad_token_id == 256


# ---- files ----


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.padding_side = "left"
    files = tokenizer.save_pretrained(tmp_path)
    tokenizer.padding_side = "right"
    assert sorted(map(os.path.basename, files)) == [
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert (loaded.eos_token_id, loaded.padding_side, loaded.pad_token) == (tokenizer.eos_token_id, "left", None)
    assert AutoTokenizer.from_pretrained(tmp_path, padding_side="right").padding_side == "right"


def test_fingerprints_differ_between_vocabularies():
    prints = {maker().fingerprint() for maker in MAKERS.values()} | {train_bpe([TEXT] * 3, 290).fingerprint()}
    assert len(prints) == 4 and all(len(p) == 64 for p in prints)
    assert byte_tokenizer().fingerprint() == byte_tokenizer().fingerprint()


def test_transformers_reads_what_we_write_and_we_read_what_it_writes(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save_pretrained(tmp_path / "ours")
    # A checkpoint folder also holds the model's config, by which transformers would otherwise choose a class of its
    # own.
    (tmp_path / "ours/config.json").write_text(json.dumps({"model_type": "gpt2"}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    for text in [TEXT, *HOSTILE]:
        ids = tokenizer(text)["input_ids"]
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == tokenizer.decode(ids) == text
    assert (theirs.eos_token_id, len(theirs)) == (tokenizer.eos_token_id, len(tokenizer))
    theirs.add_special_tokens({"pad_token": "<pad>"})
    theirs.save_pretrained(tmp_path / "theirs")
    back = Tokenizer.from_pretrained(tmp_path / "theirs")
    assert back(TEXT)["input_ids"] == theirs(TEXT)["input_ids"]
    assert (back.pad_token_id, back.eos_token_id, len(back)) == (theirs.pad_token_id, theirs.eos_token_id, len(theirs))
    batch = ["a", "The dog"]
    for option in (
        {"padding": True},
        {"padding": "max_length", "max_length": 9},
        {"truncation": True, "max_length": 2},
    ):
        assert dict(back(batch, **option)) == {k: v for k, v in theirs(batch, **option).items() if k in back("a")}


def test_a_special_token_only_the_configuration_names_is_appended(tmp_path):
    byte_tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"pad_token": {"content": "<pad>", "special": True}, "model_max_length": 77}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert (loaded.pad_token_id, loaded.vocab_size, loaded.model_max_length) == (257, 258, 77)


BROKEN = {
    "nothing there": {},
    "no JSON": {"tokenizer.json": b"{"},
    "not a tokenizer": {"tokenizer.json": b'{"x": 1}'},
    "not UTF-8": {"tokenizer.json": b"\xff\xfe"},
    "an unknown model": {"tokenizer.json": b'{"version": "1.0", "model": {"type": "Pickle"}}'},
    "merges of unknown tokens": {"vocab.json": b'{"a": 0}', "merges.txt": b"#version: 0.2\nx y\n"},
    "a configuration that is a list": {"tokenizer.json": None, "tokenizer_config.json": b"[]"},
    "a configuration nested too deep": {"tokenizer.json": None, "tokenizer_config.json": b"[" * 10**6},
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_data_errors(tmp_path, case):
    for name, content in BROKEN[case].items():
        (tmp_path / name).write_bytes(byte_tokenizer().backend.to_str().encode() if content is None else content)
    with pytest.raises(DataError, match=str(tmp_path)):
        Tokenizer.from_pretrained(tmp_path)


def test_no_folder_no_download(tmp_path):
    with pytest.raises(DataError, match="nothing is downloaded"):
        Tokenizer.from_pretrained("gpt2-does-not-exist-here")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "tokenizer.json", "wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(DataError, match="at most"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("unit", ["a", "^", " ", "a.", "\u0301", "\n"])
@pytest.mark.timeout(120)  # linear: well below a second; quadratic: hours
def test_a_million_times_the_same(unit):  # S-04
    tokenizer = MAKERS["bpe"]()
    text = unit * 1_000_000
    assert tokenizer.decode(tokenizer.encode(text)) == text
