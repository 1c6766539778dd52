"""`GenerationConfig`: how text is generated, under transformers' names, and its file generation_config.json."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmcore.errors import ConfigError
from llmcore.text_file import write_text

DEFAULT_NEW_TOKENS = 256

_WRITER = ("_from_model_config", "transformers_version")  # who wrote a generation_config.json

# Fields of transformers that do not change which tokens come out here, so that their values do not matter.
_WITHOUT_EFFECT = frozenset(
    """cache_implementation cache_config max_cache_len output_attentions output_hidden_states output_scores
    output_logits return_dict_in_generate decoder_start_token_id compile_config disable_compile is_assistant
    num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold assistant_lookbehind
    target_lookbehind assistant_early_exit max_matching_ngram_size use_mtp encoder_no_repeat_ngram_size
    encoder_repetition_penalty continuous_batching_config low_memory prefill_chunk_size""".split()
)

# Fields of transformers that would change the tokens and that llmcore does not have, with the value that is harmless.
_UNAVAILABLE: dict[str, Any] = {
    "min_length": 0,
    "max_time": None,
    "top_h": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "bad_words_ids": None,
    "renormalize_logits": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "token_healing": False,
    "guidance_scale": None,
    "watermarking_config": None,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "penalty_alpha": None,
    "constraints": None,
    "force_words_ids": None,
    "prompt_lookup_num_tokens": None,
    "assistant_ensemble_weight": None,
    "speculation_type": None,
    "dola_layers": None,
}

_SAMPLING_ONLY = ("temperature", "top_k", "top_p", "min_p")


@dataclasses.dataclass
class GenerationConfig:
    """The settings of `generate()`. None means the default, as in transformers. Raises TypeError for an unknown name,
    ConfigError for a value that cannot be."""

    max_new_tokens: int = DEFAULT_NEW_TOKENS
    """Tokens to write at most. The default becomes what the model's context has room for, if that is less."""

    max_length: int | None = None
    """Prompt and new tokens together, at most; used only where max_new_tokens is left alone."""

    min_new_tokens: int = 0
    """The end of text cannot come before this number of new tokens."""

    stop_strings: list[str] | str | None = None
    """Generation ends before the first of these in the new text."""

    do_sample: bool = False
    """Draw the next token from the model's distribution; False takes the likeliest one."""

    num_beams: int = 1
    """Beams; only 1, greedy or sampling, is there."""

    num_return_sequences: int = 1
    """Texts for each prompt; more than one needs do_sample."""

    use_cache: bool = True
    """Keep keys and values; False computes the whole sequence again for every token."""

    temperature: float = 1.0
    """Scores are divided by it before sampling; 0 means greedy."""

    top_k: int = 50
    """Sample among this many likeliest tokens; 0: all."""

    top_p: float = 1.0
    """Sample among the likeliest tokens that together have this probability."""

    min_p: float | None = None
    """Sample among tokens with at least this part of the likeliest token's probability."""

    repetition_penalty: float = 1.0
    """Scores of tokens that occur already are divided (if positive) or multiplied (if negative) by it."""

    no_repeat_ngram_size: int = 0
    """No group of this many tokens occurs twice; 0: no limit."""

    length_penalty: float = 1.0
    """Only used by beams."""

    early_stopping: bool | str = False
    """Only used by beams."""

    pad_token_id: int | None = None
    """Fills up short rows of the result; None: the end of text."""

    bos_token_id: int | None = None
    """The prompt where none is given."""

    eos_token_id: int | list[int] | None = None
    """The token, or tokens, that end a text."""

    seed: int | None = None
    """The same seed draws the same text; None: a fresh one for every call."""

    slide_context: bool = False
    """When the model's context is full, go on with its newer half; False refuses what would not fit."""

    other: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    """Fields of a generation_config.json that are not in this class: written back, and refused by `generate` where
    they would change the tokens."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is None and field.name != "other":
                setattr(self, field.name, field.default)
        _check_integer("max_new_tokens", self.max_new_tokens, 1)
        if self.max_length is not None:
            _check_integer("max_length", self.max_length, 1)
        _check_integer("min_new_tokens", self.min_new_tokens, 0)
        _check_integer("num_beams", self.num_beams, 1)
        _check_integer("num_return_sequences", self.num_return_sequences, 1)
        _check_integer("no_repeat_ngram_size", self.no_repeat_ngram_size, 0)
        _check_integer("top_k", self.top_k, 0)
        _check_number("temperature", self.temperature, 0.0, None)
        _check_number("top_p", self.top_p, 0.0, 1.0)
        if self.min_p is not None:
            _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("repetition_penalty", self.repetition_penalty, 0.0, None)
        if self.repetition_penalty == 0:
            raise ConfigError("repetition_penalty must be above 0, got 0; 1.0 means no penalty")
        if self.seed is not None:
            _check_integer("seed", self.seed, 0)
        for name in ("do_sample", "use_cache", "slide_context"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name in ("pad_token_id", "bos_token_id"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), 0)
        for token in self.eos_token_ids:
            _check_integer("eos_token_id", token, 0)
        for string in self.stop_list:
            if not isinstance(string, str) or not string:
                raise ConfigError(f"stop_strings must be strings of at least one character, got {string!r}")

    @property
    def stop_list(self) -> list[str]:
        """`stop_strings` as a list, empty if there are none."""
        if self.stop_strings is None:
            return []
        return [self.stop_strings] if isinstance(self.stop_strings, str) else list(self.stop_strings)

    @property
    def eos_token_ids(self) -> list[int]:
        """`eos_token_id` as a list, empty if there is none."""
        if self.eos_token_id is None:
            return []
        return list(self.eos_token_id) if isinstance(self.eos_token_id, Sequence) else [self.eos_token_id]

    def replace(self, **changes: Any) -> GenerationConfig:
        """A copy with some fields changed. Raises TypeError for a name that neither llmcore nor transformers has."""
        known = {field.name for field in dataclasses.fields(self)} - {"other"}
        other = dict(self.other)
        for name in [name for name in changes if name not in known]:
            if name not in _UNAVAILABLE and name not in _WITHOUT_EFFECT and name not in _WRITER:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise TypeError(f"generate() has no setting {name!r}{hint}")
            other[name] = changes.pop(name)
        return dataclasses.replace(self, **changes, other=other)

    def check_available(self) -> None:
        """Raises ConfigError if something is set that llmcore cannot do."""
        if self.num_beams > 1:
            raise ConfigError(
                f"num_beams={self.num_beams}: beam search is not available; leave num_beams at 1 and use greedy "
                "decoding (the default) or do_sample=True"
            )
        for name, value in self.other.items():
            if name in _UNAVAILABLE and value is not None and value != _UNAVAILABLE[name]:
                raise ConfigError(
                    f"{name}={value!r} would change the text, and llmcore does not have it; set {name} to "
                    f"{_UNAVAILABLE[name]!r}, or leave it out of generation_config.json"
                )
        if self.num_return_sequences > 1 and not self.samples:
            raise ConfigError(
                f"num_return_sequences={self.num_return_sequences} without sampling would give the same text each "
                "time; set do_sample=True"
            )

    @property
    def samples(self) -> bool:
        """Whether the next token is drawn rather than the likeliest one."""
        return self.do_sample and self.temperature > 0

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, as generation_config.json holds it."""
        default = GenerationConfig()
        names = [field.name for field in dataclasses.fields(self) if field.name != "other"]
        changed = {name: getattr(self, name) for name in names if getattr(self, name) != getattr(default, name)}
        return {**self.other, **changed}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> GenerationConfig:
        """From the contents of a generation_config.json; fields that this class does not have are kept in `other`.
        Raises ConfigError for a value that cannot be."""
        known = {field.name for field in dataclasses.fields(cls)} - {"other"}
        given = {name: value for name, value in settings.items() if name in known}
        other = {name: value for name, value in settings.items() if name not in known and name not in _WRITER}
        return cls(**given, other=other)

    @classmethod
    def from_model_config(cls, config: Any) -> GenerationConfig:
        """The defaults with the special tokens of a model's config, as far as they are in its vocabulary: a small
        model made from GPT-2's config often still names 50256."""
        size = getattr(config, "vocab_size", None)

        def in_vocabulary(token: Any) -> bool:
            return size is None or not isinstance(token, int) or token < size

        settings: dict[str, Any] = {}
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            value = getattr(config, name, None)
            if isinstance(value, Sequence):
                value = [token for token in value if in_vocabulary(token)] or None
            settings[name] = value if in_vocabulary(value) else None
        return cls(**settings)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes generation_config.json: what differs from the defaults."""
        path = Path(directory) / "generation_config.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> GenerationConfig:
        """Reads generation_config.json of a folder. Raises FileNotFoundError without one, ConfigError where it is not
        JSON or a value cannot be."""
        path = Path(directory) / "generation_config.json"
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(settings, dict):
            raise ConfigError(f"{path} must hold a JSON object, got {type(settings).__name__}")
        try:
            return cls.from_dict(settings)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


def sampling_settings(changes: Mapping[str, Any]) -> list[str]:
    """Those of the given settings that have no effect without sampling."""
    return [name for name in _SAMPLING_ONLY if changes.get(name) is not None]


def _check_integer(name: str, value: Any, low: int) -> None:
    # numpy's integers come out of arrays of ids; a bool is an int to Python, but hardly meant as one
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ConfigError(f"{name} must be an integer, got {value!r}")
    if value < low:
        raise ConfigError(f"{name} must be at least {low}, got {value}")


def _check_number(name: str, value: Any, low: float, high: float | None) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    if not (low <= value < float("inf")) or (high is not None and value > high):
        limits = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
        raise ConfigError(f"{name} must be {limits}, got {value}")
