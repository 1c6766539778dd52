"""Text <-> token ids: a thin layer over Hugging Face's `tokenizers`, so that tokenizer.json is understood everywhere.

`Tokenizer` wraps a `tokenizers.Tokenizer` under the names and call signature of transformers. Get one from a folder
with `Tokenizer.from_pretrained`, or make one with the functions of `vocabularies`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from llmcore.data.atomic import make_directory, write_atomically
from llmcore.data.byte_level import BYTE_TO_CHARACTER, byte_lengths
from llmcore.data.encode import check_truncation, encode_rows, is_single
from llmcore.data.padding import BatchEncoding, check_return_tensors, pad_rows, pad_strategy, target_length, to_arrays
from llmcore.data.readers import repair
from llmcore.errors import ConfigError

END_OF_TEXT = "<|endoftext|>"
KINDS = ("bos", "eos", "pad", "unk", "mask", "cls", "sep")  # of special tokens: bos_token, eos_token and so on

logger = logging.getLogger("llmcore")


class Tokenizer:
    """Text to ids and back, with transformers' names.

    `backend` is a `tokenizers.Tokenizer`; the special tokens are strings of its vocabulary. Without a pad token,
    padding uses `eos_token` (it is masked by position, so its id does not matter).
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        eos_token: str | None = None,
        bos_token: str | None = None,
        pad_token: str | None = None,
        unk_token: str | None = None,
        mask_token: str | None = None,
        cls_token: str | None = None,
        sep_token: str | None = None,
        model_max_length: int | None = None,
        model_input_names: Sequence[str] = ("input_ids", "attention_mask"),
        chat_template: str | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
    ) -> None:
        backend.no_padding()  # a tokenizer.json may carry both; here they belong to the call
        backend.no_truncation()
        self.backend = backend
        self._literal: tokenizers.Tokenizer | None = None
        self._ids_are_bytes = _ids_are_bytes(backend)
        self.eos_token = eos_token
        self.bos_token = bos_token
        self.pad_token = pad_token
        self.unk_token = unk_token
        self.mask_token = mask_token
        self.cls_token = cls_token
        self.sep_token = sep_token
        self.model_max_length = model_max_length
        self.model_input_names = list(model_input_names)
        self.chat_template = chat_template
        self.padding_side = _side(padding_side, "padding_side")
        self.truncation_side = _side(truncation_side, "truncation_side")
        self.name_or_path = ""

    # ---- vocabulary ----

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to vocab_size - 1: the rows a model's embedding needs, added tokens included."""
        return max(self.get_vocab().values(), default=-1) + 1

    def __len__(self) -> int:
        return self.vocab_size

    def get_vocab(self) -> dict[str, int]:
        """Token string -> id, added tokens included."""
        return self.backend.get_vocab(with_added_tokens=True)

    @property
    def eos_token_id(self) -> int | None:
        """The id that ends a document, None if there is none."""
        return self._id_of(self.eos_token)

    @property
    def bos_token_id(self) -> int | None:
        """The id that begins a text, None if there is none."""
        return self._id_of(self.bos_token)

    @property
    def unk_token_id(self) -> int | None:
        """The id of what is not in the vocabulary, None if there is none."""
        return self._id_of(self.unk_token)

    @property
    def mask_token_id(self) -> int | None:
        """The id that stands for a word to be guessed, None if there is none."""
        return self._id_of(self.mask_token)

    @property
    def cls_token_id(self) -> int | None:
        """The id before a row that is classified, None if there is none."""
        return self._id_of(self.cls_token)

    @property
    def sep_token_id(self) -> int | None:
        """The id between two texts and at the end, None if there is none."""
        return self._id_of(self.sep_token)

    @property
    def pad_token_id(self) -> int | None:
        """The id that fills up batches: the pad token's, else that of the end of text."""
        return self._id_of(self.pad_token if self.pad_token is not None else self.eos_token)

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the special tokens, ascending."""
        return sorted(i for i, token in self.backend.get_added_tokens_decoder().items() if token.special)

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of a token string (None if unknown), or a list for several."""
        return self._id_of(tokens) if isinstance(tokens, str) else [self._id_of(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> Any:
        """The token string of an id (None if unknown), or a list for several."""
        if isinstance(ids, (int, np.integer)):
            return self.backend.id_to_token(int(ids))
        return [self.backend.id_to_token(int(i)) for i in ids]

    def token_byte_lengths(self) -> np.ndarray:
        """How many UTF-8 bytes of text each id stands for, int32 (vocab_size,); special tokens 0. See `byte_level`."""
        return byte_lengths(json.loads(self.backend.to_str()), self.vocab_size)

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the canonical serialisation: equal for tokenizers that give equal ids."""
        canonical = json.dumps(json.loads(self.backend.to_str()), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    # ---- text to ids and back ----

    def encode(
        self,
        text: str,
        add_special_tokens: bool = True,
        split_special_tokens: bool = False,
        return_tensors: str | None = None,
    ) -> np.ndarray:
        """The ids of `text`, int32 (T,), or (1, T) with return_tensors="np".

        `split_special_tokens=True` treats "<|endoftext|>" in the text as ordinary characters: use it for text that is
        not your own. Lone surrogates become U+FFFD. Raises TypeError for anything but a string.
        """
        check_return_tensors(return_tensors)
        ids = self.encode_batch([text], add_special_tokens, split_special_tokens)[0]
        return ids if return_tensors is None else ids[None]

    def encode_batch(
        self, texts: Sequence[str], add_special_tokens: bool = True, split_special_tokens: bool = False
    ) -> list[np.ndarray]:
        """`encode` for several texts, on all cores."""
        return self._encode(texts, add_special_tokens, split_special_tokens, None)

    def tokenize(self, text: str) -> list[str]:
        """The token strings of `text`, without added special tokens."""
        return self.backend.encode(repair(text)[0], add_special_tokens=False).tokens

    def decode(self, ids: int | Sequence[int] | np.ndarray, skip_special_tokens: bool = False) -> str:
        """The text of `ids`. Bytes that are no UTF-8 (a character cut in half) become U+FFFD."""
        return self.backend.decode(np.atleast_1d(np.asarray(ids, np.int64)).tolist(), skip_special_tokens)

    def batch_decode(
        self, sequences: Sequence[Sequence[int]] | np.ndarray, skip_special_tokens: bool = False
    ) -> list[str]:
        """`decode` for every row."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def __call__(
        self,
        text: str | Sequence[Any],
        text_pair: str | Sequence[Any] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool = True,
        return_token_type_ids: bool | None = None,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        is_split_into_words: bool = False,
        split_special_tokens: bool = False,
    ) -> BatchEncoding:
        """transformers' call: {"input_ids", "attention_mask"} as lists (nested for a list of texts), or int32 arrays.

        `text_pair`: a second text for each, after a separator. `padding`: True | "longest", "max_length", False.
        `truncation`: True | "longest_first" cuts to `max_length` or `model_max_length`, the longer text of a pair
        first; "only_first" and "only_second" cut that one. `is_split_into_words`: each text is a list of words;
        `word_ids(row)` of the result then says which word a token belongs to. `token_type_ids` (0, and 1 for the
        second text) come along where the tokenizer's files name them among `model_input_names`.
        Raises ConfigError for return_tensors="pt", saying what to write instead.
        """
        check_return_tensors(return_tensors)
        single = is_single(text, is_split_into_words)
        limit = None if truncation in (False, "do_not_truncate") else self._limit(max_length)
        if return_token_type_ids is None:
            return_token_type_ids = "token_type_ids" in self.model_input_names
        backend = self._literal_backend() if split_special_tokens else self.backend
        encodings: list[tokenizers.Encoding] = []
        options = (return_token_type_ids, is_split_into_words, return_offsets_mapping, return_special_tokens_mask)
        if text_pair is None and not any(options):
            rows = self._encode([text] if single else list(text), add_special_tokens, split_special_tokens, limit)
            batch = {"input_ids": [row.tolist() for row in rows]}
        else:
            texts, pairs = [text] if single else list(text), [text_pair] if single else text_pair
            strategy = check_truncation(truncation)
            encodings = encode_rows(
                *(backend, texts, pairs if text_pair is not None else None, is_split_into_words),
                *(add_special_tokens, limit, strategy, self.truncation_side),
            )
            batch = {"input_ids": [encoding.ids for encoding in encodings]}
            if return_token_type_ids:
                batch["token_type_ids"] = [encoding.type_ids for encoding in encodings]
            if return_offsets_mapping:
                batch["offset_mapping"] = [encoding.offsets for encoding in encodings]
            if return_special_tokens_mask:
                batch["special_tokens_mask"] = [encoding.special_tokens_mask for encoding in encodings]
        padded = self.pad(
            batch,
            padding=padding,
            max_length=max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            return_tensors=return_tensors,
        )
        if not return_attention_mask:
            del padded["attention_mask"]
        if single and return_tensors is None:
            padded = BatchEncoding({name: rows[0] for name, rows in padded.items()})
        padded.encodings = encodings
        return padded

    def pad(
        self,
        encoded: dict[str, Any] | Sequence[dict[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Pad what calls returned: a dict of rows, or a list of dicts. The attention mask is added where missing."""
        check_return_tensors(return_tensors)
        if not isinstance(encoded, dict):
            encoded = {name: [example[name] for example in encoded] for name in encoded[0]}
        rows = [list(map(int, row)) for row in encoded["input_ids"]]
        masks = [list(map(int, row)) for row in encoded.get("attention_mask", [[1] * len(row) for row in rows])]
        batch = BatchEncoding({**encoded, "input_ids": rows, "attention_mask": masks})
        if (strategy := pad_strategy(padding)) != "do_not_pad":
            limit = max_length if max_length is not None else self.model_max_length
            length = target_length([len(row) for row in rows], strategy, limit, pad_to_multiple_of)
            if self.pad_token_id is None and any(len(row) < length for row in rows):
                raise ConfigError("padding needs a token: set tokenizer.pad_token to a token of the vocabulary.")
            fillers = {"input_ids": self.pad_token_id, "attention_mask": 0, "token_type_ids": 0}
            fillers |= {"special_tokens_mask": 1, "position_ids": 0}
            for name in fillers.keys() & batch.keys():
                batch[name] = pad_rows(batch[name], fillers[name] or 0, length, self.padding_side)
        return to_arrays(batch) if return_tensors == "np" else batch

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        return_tensors: str | None = None,
        return_dict: bool = True,
        **variables: Any,
    ) -> Any:
        """A conversation, or a list of them, in the model's chat template.

        A conversation is a list of {"role": ..., "content": ...}. `add_generation_prompt` ends the text where the
        assistant begins to speak. Returns text with tokenize=False, else what a call of the tokenizer returns, or the
        ids alone with return_dict=False. `variables` are handed to the template. Raises ConfigError if there is no
        template or jinja2 is missing, DataError where the template refuses the conversation.
        """
        from llmcore.data.chat_template import render_chat

        template = chat_template or self.chat_template
        if template is None:
            raise ConfigError(
                "this tokenizer has no chat template; set tokenizer.chat_template, or give chat_template="
            )
        single = not conversation or isinstance(conversation[0], Mapping)
        special = {f"{kind}_token": token for kind in KINDS if (token := getattr(self, f"{kind}_token")) is not None}
        texts = [
            render_chat(template, messages, add_generation_prompt, **{**special, **variables})
            for messages in ([conversation] if single else conversation)
        ]
        if not tokenize:
            return texts[0] if single else texts
        encoded = self(
            texts[0] if single else texts,
            add_special_tokens=False,
            padding=return_tensors is not None and not single,
            return_tensors=return_tensors,
        )
        return encoded if return_dict else encoded["input_ids"]

    def _encode(
        self, texts: Sequence[str], add_special_tokens: bool, split_special_tokens: bool, limit: int | None
    ) -> list[np.ndarray]:
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"a tokenizer takes strings, got {type(text).__name__}")
        repaired = [repair(text)[0] for text in texts]
        if self._ids_are_bytes and split_special_tokens and limit is None:  # some 100 times as fast as the general way
            return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in repaired]
        backend = self._literal_backend() if split_special_tokens else self.backend
        if limit is None:
            encodings = backend.encode_batch_fast(repaired, add_special_tokens=add_special_tokens)
        else:  # cut the text's tokens first, so that the special tokens around them (BERT's [SEP]) stay
            encodings = backend.encode_batch_fast(repaired, add_special_tokens=False)
            added = backend.num_special_tokens_to_add(False) if add_special_tokens else 0
            for number, encoding in enumerate(encodings):
                encoding.truncate(max(limit - added, 0), direction=self.truncation_side)
                encodings[number] = backend.post_process(encoding, None, add_special_tokens)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def _limit(self, max_length: int | None) -> int | None:
        limit = max_length if max_length is not None else self.model_max_length
        if limit is None:
            logger.warning(
                "truncation=True without max_length, and the tokenizer knows no limit: nothing is truncated."
            )
        return limit

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self.backend.token_to_id(token)

    def _literal_backend(self) -> tokenizers.Tokenizer:
        """A twin that reads special tokens as plain text; switching the flag of one would race between threads."""
        if self._literal is None:
            self._literal = tokenizers.Tokenizer.from_str(self.backend.to_str())
            self._literal.encode_special_tokens = True
        return self._literal

    # ---- files ----

    def save_pretrained(self, directory: str | os.PathLike[str]) -> list[str]:
        """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json, each atomically; returns the paths."""
        folder = make_directory(directory)
        special = {f"{kind}_token": getattr(self, f"{kind}_token") for kind in KINDS}
        special = {name: token for name, token in special.items() if token is not None}
        config = {
            # transformers 4 and 5 both take this class to mean "what tokenizer.json says"; a class such as
            # GPT2Tokenizer would make transformers 5 rebuild the tokenizer its own way.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": self.model_max_length or int(1e30),
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "model_input_names": self.model_input_names,
            **special,
        }
        contents = {
            "tokenizer.json": self.backend.to_str(pretty=True),
            "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n",
            "special_tokens_map.json": json.dumps(special, indent=2, ensure_ascii=False) + "\n",
        }
        if self.chat_template is not None:
            contents["chat_template.jinja"] = self.chat_template
        for name, content in contents.items():
            write_atomically(folder / name, content.encode())
        return [str(folder / name) for name in contents]

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], *, use_fast: bool = True, **options: Any
    ) -> Tokenizer:
        """Load a folder with tokenizer.json (any Hugging Face tokenizer), or with GPT-2's vocab.json and merges.txt.

        `options`: those of the constructor, over what the files say. `use_fast` is accepted for transformers' sake;
        there is no slow one. Nothing is downloaded. Raises DataError where the files are missing or broken.
        """
        from llmcore.data.tokenizer_files import load_tokenizer

        return load_tokenizer(cls, Path(name_or_path), options)

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, eos_token={self.eos_token!r}, pad_token={self.pad_token!r})"


AutoTokenizer = Tokenizer


def _side(side: str, name: str) -> str:
    if side not in ("right", "left"):
        raise ConfigError(f'{name} must be "right" or "left", got {side!r}.')
    return side


def _ids_are_bytes(backend: tokenizers.Tokenizer) -> bool:
    """Whether this is `byte_tokenizer()`: every id below 256 is the byte of that value, and nothing is merged."""
    if backend.get_vocab_size(with_added_tokens=False) != 256:
        return False
    specification = json.loads(backend.to_str())
    model, pre_tokenizer = specification["model"], specification["pre_tokenizer"] or {}
    return (
        model.get("vocab") == {character: byte for byte, character in BYTE_TO_CHARACTER.items()}
        and not model.get("merges")
        and specification["normalizer"] is None
        and pre_tokenizer.get("type") == "ByteLevel"
        and not pre_tokenizer.get("add_prefix_space")
        and (specification["post_processor"] or {}).get("type", "ByteLevel") == "ByteLevel"
    )
