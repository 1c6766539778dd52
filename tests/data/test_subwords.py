"""WordPiece and Unigram: trained, saved, and read by transformers with equal ids."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import llmcore
from llmcore.data import Tokenizer, train_unigram, train_wordpiece, wordpiece_tokenizer
from llmcore.data.subwords import BERT_TOKENS
from llmcore.errors import ConfigError, DataError

TEXT = "The lower tower flows slowly; a newer tower glows. Löwen flüstern lower words.\n" * 30
HARD = [
    "",
    "  The\tTOWER\n\nglows ",
    "Löwen Ｆｕｌｌ ﬁ ½",
    "今天 tower很好",
    "zebra \U0001f600 q",
    "a" * 300,
    "e\u0301\u200d\x00x",
]
PAIRS = [("the tower", "a newer word"), ("", "glows"), ("今天", "x")]


def saved(tokenizer: Tokenizer, folder) -> object:
    """What transformers makes of the saved files."""
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def assert_equal_ids(ours: Tokenizer, theirs) -> None:
    assert len(theirs) == ours.vocab_size
    for text in [*HARD, TEXT]:
        mine, its = ours(text), theirs(text)
        for name in its:
            assert mine[name] == its[name], (name, text)
        assert ours.decode(mine["input_ids"], True) == theirs.decode(its["input_ids"], skip_special_tokens=True)
    mine, its = (tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True) for tokenizer in (ours, theirs))
    assert {name: mine[name] for name in its} == dict(its)
    for name in ("pad", "unk", "cls", "sep", "mask", "eos"):
        assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id"), name


@pytest.mark.parametrize("lowercase", [True, False])
def test_wordpiece_is_what_transformers_reads(tmp_path, lowercase):
    tokenizer = train_wordpiece([TEXT], 120, lowercase=lowercase)
    assert tokenizer.convert_tokens_to_ids(list(BERT_TOKENS)) == [0, 1, 2, 3, 4]
    assert tokenizer.tokenize("Towers") == (["tower", "##s"] if lowercase else ["T", "##ower", "##s"])
    assert (tokenizer.tokenize("LÖWEN") == tokenizer.tokenize("lowen")) == lowercase
    theirs = saved(tokenizer, tmp_path)
    assert theirs.model_max_length == 512
    assert_equal_ids(tokenizer, theirs)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert again.model_input_names == ["input_ids", "token_type_ids", "attention_mask"]
    row = again("tower", "lower")
    assert again.convert_ids_to_tokens(row["input_ids"]) == ["[CLS]", "tower", "[SEP]", "lower", "[SEP]"]
    assert row["token_type_ids"] == [0, 0, 0, 1, 1]


def test_wordpiece_in_the_folder_of_a_model(tmp_path):
    """With a BERT's config.json beside it, transformers may choose its own class: the ids stay the same."""
    tokenizer = train_wordpiece([TEXT], 120)
    config = llmcore.BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    llmcore.BertForMaskedLM(config).save_pretrained(tmp_path)
    assert_equal_ids(tokenizer, saved(tokenizer, tmp_path))


def test_published_vocab_txt(tmp_path):
    """A folder as BERT was first published: vocab.txt alone, with the case in tokenizer_config.json."""
    from transformers import BertTokenizer

    trained = train_wordpiece([TEXT], 120, lowercase=False)
    pieces = sorted(trained.get_vocab(), key=trained.get_vocab().get)
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "model_max_length": 64}')
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.model_max_length == 64 and tokenizer.fingerprint() == trained.fingerprint()
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    assert_equal_ids(tokenizer, BertTokenizer(vocab=vocabulary, do_lower_case=False))
    lowered = wordpiece_tokenizer(tmp_path / "vocab.txt")
    assert lowered.encode("The").tolist() == lowered.encode("the").tolist()
    (tmp_path / "vocab.txt").write_text("\n".join([*pieces, pieces[7]]))
    with pytest.raises(DataError, match=f"lists '{pieces[7]}' twice"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("the\na\n")
    with pytest.raises(DataError, match=r"has no \[PAD\], \[UNK\], \[CLS\], \[SEP\], \[MASK\]; is it"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("append_eos", [True, False])
def test_unigram_is_what_transformers_reads(tmp_path, append_eos):
    tokenizer = train_unigram([TEXT], 80, append_eos=append_eos)
    assert tokenizer.convert_tokens_to_ids(["<pad>", "</s>", "<unk>"]) == [0, 1, 2] and tokenizer.eos_token_id == 1
    assert_equal_ids(tokenizer, saved(tokenizer, tmp_path))
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.fingerprint() == tokenizer.fingerprint()
    ids = again("The  newer\ntower")["input_ids"]
    assert (ids[-1] == 1) == append_eos
    assert again.decode(ids, skip_special_tokens=True) == "The newer tower"
    assert tokenizer.encode("ｔｏｗｅｒ").tolist() == tokenizer.encode("tower").tolist()
    assert 2 in tokenizer.encode("今")


def test_the_same_in_another_process():
    """Bit for bit for WordPiece; Unigram's scores may differ by one in the last of three digits (see train_unigram)."""
    code = f"""
import json
from llmcore.data import train_unigram, train_wordpiece
print(train_wordpiece([{TEXT!r}, 'zz yy xx ww'], 90).fingerprint())
print(json.dumps(json.loads(train_unigram([{TEXT!r}, 'zz yy xx ww'], 60).backend.to_str())["model"]["vocab"]))
"""
    fingerprints, vocabularies = set(), []
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed}
        environment["PYTHONPATH"] = os.path.dirname(os.path.dirname(llmcore.__file__))
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        fingerprint, vocabulary = run.stdout.splitlines()
        fingerprints.add(fingerprint)
        vocabularies.append(dict(json.loads(vocabulary)))
    assert len(fingerprints) == 1
    for other in vocabularies[1:]:
        assert other == pytest.approx(vocabularies[0], abs=0.0011)


@pytest.mark.parametrize("train", [train_wordpiece, train_unigram])
def test_mistakes(train, caplog):
    with pytest.raises(ConfigError, match="needs room for its . special tokens"):
        train([TEXT], 3)
    with pytest.raises(DataError, match="no text"):
        train([], 300)
    with pytest.raises(TypeError, match="put it into a list"):
        train(TEXT, 300)
    train([TEXT], 5000)
    assert "repeats too little for 5,000 entries" in caplog.text
