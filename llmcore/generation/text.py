"""Token ids -> pieces of text, one token at a time: whole characters only, and never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "\ufffd"  # what decoders write for bytes that are not (yet) a character

# Tokens that are decoded again with each new one: decoders drop a leading space of the first token, and a character may
# be spread over four tokens.
_CONTEXT = 8


class Detokenizer:
    """Decodes a growing sequence of ids; the pieces add up to what decoding it at once gives.

    A character whose bytes are not all there yet is held back. `context` are the ids before the first one: the new text
    begins after theirs.
    """

    def __init__(self, tokenizer: Any, context: Sequence[int] = ()):
        self._tokenizer = tokenizer
        self._window = self._tail([int(token) for token in context])
        self._given_out = len(self._decode().rstrip(_REPLACEMENT))  # characters of the window's text

    def push(self, token: int) -> str:
        """The text that `token` completes; may be empty."""
        self._window.append(int(token))
        text = self._decode()
        complete = text.rstrip(_REPLACEMENT)
        piece = complete[self._given_out :]
        self._given_out = max(self._given_out, len(complete))
        if len(complete) == len(text) and len(self._window) > 2 * _CONTEXT:
            self._window = self._tail(self._window)
            self._given_out = len(self._decode())
        return piece

    def finish(self) -> str:
        """What was held back: bytes that never became a character."""
        piece = self._decode()[self._given_out :]
        self._given_out += len(piece)
        return piece

    def _decode(self) -> str:
        return self._tokenizer.decode(self._window, skip_special_tokens=True) if self._window else ""

    def _tail(self, ids: list[int]) -> list[int]:
        """The last tokens of `ids`, cut between characters: decoders with byte fallback give up a whole run of byte
        tokens if it begins with half a character."""
        for length in range(min(_CONTEXT, len(ids)), 0, -1):
            text = self._tokenizer.decode(ids[-length:], skip_special_tokens=True)
            if text and _REPLACEMENT not in text:
                return ids[-length:]
        return ids


class StopStrings:
    """Passes text on until one of the stop strings is complete; what may be the beginning of one is held back.

    The first one to be completed counts (of two that end together, the longer), as if the text had come character by
    character: where the tokens' boundaries lie makes no difference.
    """

    def __init__(self, stop_strings: Sequence[str]):
        self._stop_strings = list(stop_strings)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that cannot be part of a stop string any more. Nothing comes after `stopped`."""
        if self.stopped:
            return ""
        self._held += text
        matches = []
        for string in self._stop_strings:
            start = self._held.find(string)
            if start >= 0:
                matches.append((start + len(string), start))
        if matches:
            self.stopped = True
            released, self._held = self._held[: min(matches)[1]], ""
            return released
        keep = self._longest_beginning()
        released, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return released

    def finish(self) -> str:
        """What was held back: the beginning of a stop string that was never completed."""
        released, self._held = self._held, ""
        return released

    def _longest_beginning(self) -> int:
        """The length of the longest end of the held text that begins a stop string."""
        longest = max((len(string) - 1 for string in self._stop_strings), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(string.startswith(self._held[-length:]) for string in self._stop_strings):
                return length
        return 0


class RowText:
    """The text of one row as it grows: detokenizer, stop strings, and what nobody has taken yet."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stop_strings: Sequence[str]):
        self.prompt_text: str = tokenizer.decode([int(token) for token in prompt], skip_special_tokens=True)
        self._detokenizer = Detokenizer(tokenizer, prompt)
        self._stop_strings = StopStrings(stop_strings)
        self._untaken: list[str] = []
        self._pieces: list[str] = []

    def push(self, token: int) -> bool:
        """Adds a token; True if a stop string is now complete."""
        self._add(self._stop_strings.push(self._detokenizer.push(token)))
        return self._stop_strings.stopped

    def finish(self) -> bool:
        """No more tokens follow: gives out what was held back. True if that completed a stop string."""
        self._add(self._stop_strings.push(self._detokenizer.finish()))
        self._add(self._stop_strings.finish())
        return self._stop_strings.stopped

    def take(self) -> str:
        """The text since the last call."""
        piece = "".join(self._untaken)
        self._untaken.clear()
        return piece

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self._pieces)

    def _add(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
            self._untaken.append(piece)
