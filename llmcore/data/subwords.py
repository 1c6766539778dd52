"""WordPiece and Unigram vocabularies: trained on text, or WordPiece from a published vocab.txt.

Both cut words into pieces. WordPiece (Schuster, Nakajima 2012; BERT) takes the longest piece that fits, from the left;
Unigram (Kudo 2018, arXiv:1804.10959; T5) takes the likeliest way to write the whole word. Unlike byte-level BPE they
normalise the text first and have an entry for what is unknown, so decoding need not give the text back.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from llmcore.data.readers import Document
from llmcore.data.tokenizer import Tokenizer
from llmcore.data.vocabularies import TRAINING_CHARACTERS, LimitedTexts
from llmcore.errors import ConfigError, DataError

BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
UNIGRAM_TOKENS = ("<pad>", "</s>", "<unk>")

# A script such as Chinese has thousands of characters; beyond this many the rarest ones are left to [UNK], so that
# pieces have room.
_ALPHABET = 1000
_REPEATED = 10_000  # copies of a word in one string

logger = logging.getLogger("llmcore")


def train_wordpiece(
    texts: Iterable[str | Document],
    vocab_size: int,
    *,
    lowercase: bool = True,
    min_frequency: int = 2,
    model_max_length: int | None = 512,
    max_characters: int = TRAINING_CHARACTERS,
    quiet: bool = False,
) -> Tokenizer:
    """Train a WordPiece vocabulary with BERT's normalisation and special tokens.

    Ids 0 to 4 are [PAD], [UNK], [CLS], [SEP], [MASK]; a row is [CLS] text [SEP], or [CLS] text [SEP] text [SEP].
    `lowercase` also strips accents, as for the uncased models. Chinese characters are words of their own. The same
    text gives the same vocabulary; a small text gives fewer than `vocab_size` entries, which is logged unless
    `quiet`. Raises ConfigError for a vocabulary without room for pieces, DataError where there is no text.
    """
    _check_size(vocab_size, len(BERT_TOKENS))
    counts = _count_words(texts, lowercase, max_characters)
    alphabet = _alphabet(counts, max(1, min(_ALPHABET, vocab_size // 4)))
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=max(vocab_size, len(BERT_TOKENS) + len(alphabet)),
        min_frequency=min_frequency,
        limit_alphabet=len(alphabet),
        special_tokens=[*BERT_TOKENS, *alphabet],
        show_progress=False,
    )
    backend.train_from_iterator(_repeated(counts), trainer)
    vocabulary = backend.get_vocab(with_added_tokens=False)
    if not quiet:
        _warn_if_small(vocabulary, vocab_size, sum(len(word) * count for word, count in counts.items()))
    return _bert_tokenizer(_bert(models.WordPiece(vocabulary, unk_token="[UNK]"), lowercase), model_max_length)


def wordpiece_tokenizer(
    vocab_txt: str | os.PathLike[str], *, lowercase: bool = True, model_max_length: int | None = 512
) -> Tokenizer:
    """The tokenizer of a published BERT from its vocab.txt, one piece a line.

    Raises DataError where the file is missing, too large, lists a piece twice or lacks a special token.
    """
    from llmcore.data.tokenizer_files import read_text

    lines = read_text(Path(vocab_txt)).split("\n")
    pieces = [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    if len(vocabulary) < len(pieces):
        twice = next(piece for number, piece in enumerate(pieces) if vocabulary[piece] != number)
        raise DataError(f"{vocab_txt} lists {twice!r} twice; each line of a vocabulary is another piece.")
    missing = [token for token in BERT_TOKENS if token not in vocabulary]
    if missing:
        raise DataError(f"{vocab_txt} has no {', '.join(missing)}; is it the vocabulary of a BERT?")
    return _bert_tokenizer(_bert(models.WordPiece(vocabulary, unk_token="[UNK]"), lowercase), model_max_length)


def train_unigram(
    texts: Iterable[str | Document],
    vocab_size: int,
    *,
    lowercase: bool = False,
    append_eos: bool = False,
    model_max_length: int | None = None,
    max_characters: int = TRAINING_CHARACTERS,
) -> Tokenizer:
    """Train a Unigram vocabulary as SentencePiece's, with T5's special tokens.

    Ids 0 to 2 are <pad>, </s> (the end of text) and <unk>. Text is brought into Unicode's form NFKC and its blanks are
    joined; pieces carry the blank before them as "▁". `append_eos` ends every row with </s>, as T5 does. The trainer
    of `tokenizers` adds up in an order that changes from run to run: scores are rounded to 0.001, so that the same text
    gives the same vocabulary but for ties and values halfway; keep the files rather than train again. Raises as
    `train_wordpiece`.
    """
    _check_size(vocab_size, len(UNIGRAM_TOKENS))
    backend = tokenizers.Tokenizer(models.Unigram())
    steps: list[Any] = [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    backend.normalizer = normalizers.Sequence(steps + ([normalizers.Lowercase()] if lowercase else []))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=list(UNIGRAM_TOKENS), unk_token="<unk>", show_progress=False
    )
    counter = LimitedTexts(texts, max_characters)
    try:
        backend.train_from_iterator(counter, trainer)
    except TypeError:
        raise
    except Exception as error:
        if counter.characters:
            raise DataError(f"the text does not make a vocabulary: {error}") from None
    if not counter.characters:
        raise DataError("there was no text to train a tokenizer on.")
    scores = json.loads(backend.to_str())["model"]["vocab"]
    _warn_if_small([piece for piece, _ in scores], vocab_size, counter.characters)
    # the trainer adds up in the order of a hash table: rounded, the last digits of that do not show
    special, pieces = scores[: len(UNIGRAM_TOKENS)], scores[len(UNIGRAM_TOKENS) :]
    pieces = sorted(((piece, round(score, 3)) for piece, score in pieces), key=lambda entry: (-entry[1], entry[0]))
    backend.model = models.Unigram([*map(tuple, special), *pieces], special.index(["<unk>", 0.0]), False)
    if append_eos:
        end = backend.token_to_id("</s>")
        backend.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", end)]
        )
    return Tokenizer(backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=model_max_length)


def _check_size(vocab_size: int, special: int) -> None:
    if vocab_size <= special:
        raise ConfigError(
            f"a vocabulary needs room for its {special} special tokens and for pieces, got vocab_size={vocab_size}."
        )


def _count_words(texts: Iterable[str | Document], lowercase: bool, max_characters: int) -> Counter[str]:
    """How often each word occurs, as BERT divides text into words.

    `tokenizers` counts them, in a training that makes nothing else; what it would go on to make of them depends on the
    order of a hash table, which is another one in each run.
    """
    backend = _bert(models.WordPiece(unk_token="[UNK]"), lowercase)
    counting = trainers.WordPieceTrainer(vocab_size=0, show_progress=False)
    counter = LimitedTexts(texts, max_characters)
    backend.train_from_iterator(counter, counting)
    if counter.characters == 0:
        raise DataError("there was no text to train a tokenizer on.")
    words = json.loads(counting.__getstate__())["WordPieceTrainer"]["bpe_trainer"]["words"]
    return Counter(dict(sorted(words.items())))


def _alphabet(counts: Counter[str], size: int) -> list[str]:
    """The `size` most frequent characters, each at the beginning of a word and inside one, in code-point order.

    They are given to the trainer beforehand, because it numbers the ones inside words in the order of its hash table.
    """
    characters: Counter[str] = Counter()
    for word, count in counts.items():
        for character in word:
            characters[character] += count
    chosen = sorted(sorted(characters), key=characters.__getitem__, reverse=True)[:size]
    inside = {character for word in counts for character in word[1:]}
    return [*sorted(chosen), *(f"##{character}" for character in sorted(inside & set(chosen)))]


def _repeated(counts: Counter[str]) -> Iterator[str]:
    """Every word as often as it occurred."""
    for word, count in counts.items():
        while count > 0:
            yield " ".join([word] * min(count, _REPEATED))
            count -= _REPEATED


def _warn_if_small(vocabulary: Collection[str], vocab_size: int, characters: int) -> None:
    if len(vocabulary) < vocab_size:
        logger.warning(
            "the text (%s characters) repeats too little for %s entries: the vocabulary has %s.",
            f"{characters:,}",
            f"{vocab_size:,}",
            f"{len(vocabulary):,}",
        )


def _bert(model: models.WordPiece, lowercase: bool) -> tokenizers.Tokenizer:
    """BERT's normalisation and division into words around a WordPiece model."""
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)  # accents go with the capitals
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _bert_tokenizer(backend: tokenizers.Tokenizer, model_max_length: int | None) -> Tokenizer:
    backend.add_special_tokens(list(BERT_TOKENS))
    separator, first = (backend.token_to_id(token) for token in ("[SEP]", "[CLS]"))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", first), ("[SEP]", separator)],
    )
    return Tokenizer(
        backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=model_max_length,
        model_input_names=("input_ids", "token_type_ids", "attention_mask"),
    )
