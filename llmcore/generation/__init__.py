"""Text out of a model.

In reading order:

    config     GenerationConfig: transformers' names, checked
    sampling   one row of scores -> the next token: penalties, temperature, top-k, top-p, min-p
    text       token ids -> pieces of text: whole characters only, and never a part of a stop string
    prompts    strings, ids, masks -> one list of ids per row
    loop       the decoding loop: left padding, key/value cache, sliding window
    streamers  TextStreamer, TextIteratorStreamer
    api        generate(), which puts them together, and GenerationMixin
"""

from __future__ import annotations

from llmcore.generation.api import GenerateOutput, GenerationMixin, generate
from llmcore.generation.config import GenerationConfig
from llmcore.generation.streamers import TextIteratorStreamer, TextStreamer

__all__ = [
    "GenerateOutput",
    "GenerationConfig",
    "GenerationMixin",
    "TextIteratorStreamer",
    "TextStreamer",
    "generate",
]
