"""Reading a tokenizer's files: sizes are checked first, and what is wrong is said with the file's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers

from llmcore.errors import DataError

if TYPE_CHECKING:
    from llmcore.data.tokenizer import Tokenizer

_LARGEST_FILE = 1 << 28  # the largest published tokenizer.json, of a vocabulary of 256,000 entries, has 33 MB
_NO_LIMIT = 10**9  # transformers writes 1e30 where there is no model_max_length
_KINDS = ("bos", "eos", "pad", "unk", "mask", "cls", "sep")
# Classes of transformers whose models also take token_type_ids, where the file does not say it itself.
_WITH_TYPES = ("BertTokenizer", "BertTokenizerFast")


def load_tokenizer(cls: type[Tokenizer], folder: Path, options: dict[str, Any]) -> Tokenizer:
    """What `Tokenizer.from_pretrained` does. Raises DataError."""
    if (folder / "tokenizer.json").is_file():
        backend = parse_backend(read_text(folder / "tokenizer.json"), str(folder / "tokenizer.json"))
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        from llmcore.data.vocabularies import gpt2_tokenizer

        backend = gpt2_tokenizer(folder / "vocab.json", folder / "merges.txt").backend
    elif (folder / "vocab.txt").is_file():
        return _load_wordpiece(cls, folder, options)
    elif folder.is_dir():
        files = "tokenizer.json (nor vocab.json and merges.txt, nor vocab.txt)"
        raise DataError(f"{folder} holds no {files}; is it a model's folder?")
    else:
        raise DataError(f"{folder} is not a folder. Tokenizers are loaded from disk; nothing is downloaded.")
    settings = _special_tokens(folder)
    config = _read_json(folder / "tokenizer_config.json")
    for name in ("padding_side", "truncation_side"):
        if isinstance(config.get(name), str):
            settings[name] = config[name]
    names = config.get("model_input_names")
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        settings["model_input_names"] = names
    elif config.get("tokenizer_class") in _WITH_TYPES:
        settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    settings["chat_template"] = _chat_template(folder, config)
    limit = config.get("model_max_length")
    settings["model_max_length"] = int(limit) if isinstance(limit, (int, float)) and 0 < limit < _NO_LIMIT else None
    settings |= options
    if settings.get("eos_token") is None and backend.token_to_id("<|endoftext|>") is not None:
        settings["eos_token"] = "<|endoftext|>"
    # As transformers does: a special token that only the configuration names is appended to the vocabulary.
    missing = {settings.get(f"{kind}_token") for kind in _KINDS} - {None}
    missing = [token for token in sorted(missing) if backend.token_to_id(token) is None]
    backend.add_special_tokens(missing)
    tokenizer = cls(backend, **settings)
    tokenizer.name_or_path = str(folder)
    return tokenizer


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """chat_template.jinja, else what tokenizer_config.json says; of several named ones the default."""
    if (folder / "chat_template.jinja").is_file():
        return read_text(folder / "chat_template.jinja")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _load_wordpiece(cls: type[Tokenizer], folder: Path, options: dict[str, Any]) -> Tokenizer:
    """A BERT as it was first published: vocab.txt, and do_lower_case in tokenizer_config.json."""
    from llmcore.data.subwords import wordpiece_tokenizer

    config = _read_json(folder / "tokenizer_config.json")
    made = wordpiece_tokenizer(folder / "vocab.txt", lowercase=bool(config.get("do_lower_case", True)))
    names = (*(f"{kind}_token" for kind in _KINDS), "model_max_length", "model_input_names")
    settings = {name: getattr(made, name) for name in names}
    limit = config.get("model_max_length")
    if isinstance(limit, (int, float)) and 0 < limit < _NO_LIMIT:
        settings["model_max_length"] = int(limit)
    tokenizer = cls(made.backend, **{**settings, **options})
    tokenizer.name_or_path = str(folder)
    return tokenizer


def parse_backend(text: str, name: str) -> tokenizers.Tokenizer:
    """tokenizer.json -> backend. Raises DataError, also where the library panics on a hostile file."""
    try:
        return tokenizers.Tokenizer.from_str(text)
    except BaseException as error:
        # A Rust panic arrives as pyo3's PanicException, which is a BaseException that no module exports.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DataError(
            f"{name} is not a tokenizer that `tokenizers` {tokenizers.__version__} can read: {error}"
        ) from None


def read_text(path: Path) -> str:
    """A UTF-8 file of bounded size. Raises DataError."""
    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise DataError(f"{path} has {size:,} bytes; a tokenizer's file has at most {_LARGEST_FILE:,}.")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start}.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _special_tokens(folder: Path) -> dict[str, Any]:
    """eos_token and so on, as strings; tokenizer_config.json over special_tokens_map.json."""
    tokens: dict[str, Any] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        content = _read_json(folder / file)
        for kind in _KINDS:
            token = content.get(f"{kind}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                tokens[f"{kind}_token"] = token
    return tokens


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a JSON object, got {type(content).__name__}.")
    return content
