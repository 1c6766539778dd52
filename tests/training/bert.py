"""A BERT and its WordPiece vocabulary, small enough that a test trains them in a moment."""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

import llmcore
from llmcore.data.tokenizer import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = "the a cat dog film plot is was good great fine bad poor dull very not at all ##s ##ly ##ing walk".split()


def make_tokenizer() -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *WORDS))}
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.add_special_tokens(list(SPECIAL))
    return Tokenizer(
        backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def make_config(**changes: Any) -> llmcore.BertConfig:
    sizes = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48)
    return llmcore.BertConfig(vocab_size=len(SPECIAL) + len(WORDS), max_position_embeddings=32, **{**sizes, **changes})


REVIEWS = [
    {"text": f"{article} {thing} {verb} {how}{word}", "label": label}
    for article in ("the", "a")
    for thing in ("film", "plot", "cat", "dog")
    for verb in ("is", "was")
    for how in ("", "very ")
    for word, label in (("good", 1), ("great", 1), ("fine", 1), ("bad", 0), ("poor", 0), ("dull", 0))
]
