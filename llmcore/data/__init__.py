"""Text in, batches of token ids out.

In reading order:

    sources      which files a list of paths, folders and globs means
    readers      files -> Documents (text repaired, counted, long ones cut into sections)
    corpus       the standard library of the running Python as a corpus that is always there
    tokenizer    text <-> ids, on top of Hugging Face's `tokenizers` (byte_level, padding, tokenizer_files)
    vocabularies how a tokenizer is made: trained BPE, bytes, characters, GPT-2's
    subwords     the same for WordPiece (BERT's) and Unigram (T5's)
    split        which document trains and which one validates
    shards       token ids on disk (shard_format: the layout, shard_writer: how they are written)
    prepare      sources -> train.bin, validation.bin, tokenizer, report
    loader       shards -> windows -> batches, in an order that two integers resume (permutation)
    collators    lists of examples -> padded batches
    report       what is in the data, before the first step
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULE_OF = {
    "AutoTokenizer": "tokenizer",
    "BatchEncoding": "padding",
    "BlockDataset": "loader",
    "DataCollatorForLanguageModeling": "collators",
    "DataCollatorForTokenClassification": "collators",
    "DataCollatorWithPadding": "collators",
    "DataReport": "report",
    "Document": "readers",
    "ExampleDataset": "loader",
    "ReadStatistics": "readers",
    "ShardWriter": "shard_writer",
    "TokenLoader": "loader",
    "TokenShard": "shards",
    "Tokenizer": "tokenizer",
    "byte_tokenizer": "vocabularies",
    "char_tokenizer": "vocabularies",
    "detect_rows": "rows",
    "default_data_collator": "collators",
    "gpt2_tokenizer": "vocabularies",
    "open_shard": "shards",
    "read_documents": "readers",
    "report_examples": "report",
    "report_shards": "report",
    "standard_library_documents": "corpus",
    "train_bpe": "vocabularies",
    "train_unigram": "subwords",
    "train_wordpiece": "subwords",
    "wordpiece_tokenizer": "subwords",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    # Lazy, so that reading a shard does not import `tokenizers`.
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'llmcore.data' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"llmcore.data.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
