"""Streamers: objects that `generate(streamer=...)` hands the text to while it is being written."""

from __future__ import annotations

import queue
import sys
from typing import Any

import numpy as np

from llmcore.errors import ConfigError
from llmcore.generation.text import Detokenizer


class TextStreamer:
    """Prints text to standard output as it is generated. Subclasses override `on_finalized_text`.

    `generate` hands it finished pieces of text (`put_text`): whole characters, and never a part of a stop string. `put`
    takes token ids, as in transformers, for hosts that drive a streamer themselves; it needs the tokenizer. Special
    tokens are never shown; `skip_special_tokens` is there because calls written for transformers have it.
    """

    def __init__(self, tokenizer: Any = None, skip_prompt: bool = False, *, skip_special_tokens: bool = True):
        if not skip_special_tokens:
            raise ConfigError("special tokens are not part of the text here; leave skip_special_tokens at True")
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self._next_is_prompt = True
        self._detokenizer: Detokenizer | None = None

    def put_text(self, text: str) -> None:
        """Takes a piece of text; the first one is the prompt."""
        is_prompt, self._next_is_prompt = self._next_is_prompt, False
        if text and not (is_prompt and self.skip_prompt):
            self.on_finalized_text(text)

    def put(self, value: Any) -> None:
        """Takes token ids, an array of shape (T,) or (1, T); the first ones are the prompt."""
        ids = np.asarray(value)
        if ids.ndim > 1 and ids.shape[0] > 1:
            raise ValueError(f"a text streamer writes one text, got ids of shape {ids.shape}")
        if self._detokenizer is None:
            self._detokenizer = Detokenizer(self.tokenizer)
        self.put_text("".join(self._detokenizer.push(token) for token in ids.reshape(-1)))

    def end(self) -> None:
        """The text is complete."""
        rest = "" if self._detokenizer is None else self._detokenizer.finish()
        self._detokenizer, self._next_is_prompt = None, True
        self.on_finalized_text(rest, stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Takes text that will not change; the last call has `stream_end` set."""
        sys.stdout.write(text + ("\n" if stream_end else ""))
        sys.stdout.flush()


class TextIteratorStreamer(TextStreamer):
    """An iterator over the pieces of text, for a consumer in another thread than `generate`.

    `timeout` in seconds bounds the wait for the next piece (queue.Empty is raised beyond it); None waits for ever. When
    `generate` fails, the iterator ends.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        skip_prompt: bool = False,
        timeout: float | None = None,
        *,
        skip_special_tokens: bool = True,
    ):
        super().__init__(tokenizer, skip_prompt, skip_special_tokens=skip_special_tokens)
        self.timeout = timeout
        self.text_queue: queue.Queue[str | None] = queue.Queue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.text_queue.put(text)
        if stream_end:
            self.text_queue.put(None)

    def __iter__(self) -> TextIteratorStreamer:
        return self

    def __next__(self) -> str:
        piece = self.text_queue.get(timeout=self.timeout)
        if piece is None:
            raise StopIteration
        return piece
