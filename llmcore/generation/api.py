"""`generate`: prompts in, text or ids out."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from llmcore.errors import ConfigError
from llmcore.generation.config import DEFAULT_NEW_TOKENS, GenerationConfig, sampling_settings
from llmcore.generation.loop import DecodingLoop, Row
from llmcore.generation.prompts import prompt_rows
from llmcore.generation.sampling import row_generators
from llmcore.generation.streamers import TextStreamer
from llmcore.generation.text import RowText
from llmcore.inference import context_length


@dataclasses.dataclass
class GenerateOutput:
    """What `generate(..., return_dict_in_generate=True)` returns; one entry for each row."""

    sequences: np.ndarray
    """Prompt and new tokens, int32 (B, T): prompts padded on the left, texts on the right."""
    texts: list[str] | None
    """The new text, without stop string and special tokens; None without a tokenizer."""
    finish_reasons: list[str]
    """"stop" (end of text or stop string) or "length"."""
    new_tokens: list[int]
    """How many tokens were generated, an end-of-text token included."""


def generate(
    model: Any,
    inputs: Any = None,
    generation_config: GenerationConfig | Mapping[str, Any] | None = None,
    *,
    input_ids: Any = None,
    attention_mask: Any = None,
    tokenizer: Any = None,
    stream: bool = False,
    streamer: Any = None,
    return_dict_in_generate: bool = False,
    **settings: Any,
) -> Any:
    """Continues prompts.

    `inputs` (or `input_ids`): a string, strings, or token ids (T,) or (B, T), with `attention_mask` where they are
    padded. Text comes back as the new text only, a string or a list of them; ids come back as int32 (B, T), prompt and
    new tokens, as in transformers. With `num_return_sequences` the texts of one prompt stand together. `tokenizer`
    defaults to the model's: the one attached to it, or found in the directory that it was loaded from.

    `settings` are fields of `GenerationConfig` and go before `generation_config`, which goes before the model's own.
    `stream=True` returns an iterator over pieces of the new text, `streamer` receives them; both take one prompt. What
    the streamer gets: text if it is a `TextStreamer` of llmcore, otherwise, as in transformers, arrays of ids.

    Raises TypeError for an unknown setting; ConfigError for a value that cannot be, and where prompt and new tokens do
    not fit into the model's context (`slide_context=True` goes on beyond it).
    """
    config = generation_config if generation_config is not None else getattr(model, "generation_config", None)
    if config is None:
        config = GenerationConfig.from_model_config(model.config)
    elif isinstance(config, Mapping):  # the contents of a generation_config.json
        config = GenerationConfig.from_dict(config)
    tokenizer = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
    config = _complete(config, settings, tokenizer)
    inputs = _one_of(inputs, input_ids)
    if isinstance(inputs, Mapping):  # what a tokenizer returns
        inputs, attention_mask = inputs["input_ids"], inputs.get("attention_mask", attention_mask)
    prompts, from_text = prompt_rows(inputs, attention_mask, tokenizer, config)
    prompts = [prompt for prompt in prompts for _ in range(config.num_return_sequences)]

    if tokenizer is None and (config.stop_list or stream or isinstance(streamer, TextStreamer)):
        asked = "stop_strings" if config.stop_list else "stream=True" if stream else "a text streamer"
        raise ConfigError(f"{asked} needs a tokenizer: pass tokenizer=..., or set model.tokenizer")
    if (stream or streamer is not None) and len(prompts) != 1:
        raise ConfigError(f"streaming writes one text, got {len(prompts)}; stream them one after the other")

    writes = from_text or stream or streamer is not None or return_dict_in_generate or bool(config.stop_list)
    loop = _loop(model, prompts, config, tokenizer if writes else None, settings)
    if stream:
        return _pieces(loop, streamer)
    for _ in _pieces(loop, streamer):
        pass
    output = _output(loop.rows, _padding(config))
    if return_dict_in_generate:
        return output
    if not from_text:
        return output.sequences
    assert output.texts is not None
    return output.texts[0] if isinstance(inputs, str) and len(prompts) == 1 else output.texts


class GenerationMixin:
    """Gives a model `model.generate(...)`.

    The model has `config`, `training`, `train()`, `eval()`, `new_cache(batch_size, capacity)`, and answers
    `model(input_ids, past=cache, starts=..., logits_to_keep=1)`. A `generation_config` and a
    `tokenizer` may be attached to it.
    """

    generation_config: GenerationConfig | None = None
    tokenizer: Any = None
    generate = generate


def _complete(config: GenerationConfig, settings: dict[str, Any], tokenizer: Any) -> GenerationConfig:
    """The settings of one call: those given over the config's, and the tokenizer's special tokens where unknown."""
    config = config.replace(**settings)
    for name in ("eos_token_id", "pad_token_id"):
        if getattr(config, name) is None and getattr(tokenizer, name, None) is not None:
            config = config.replace(**{name: getattr(tokenizer, name)})
    config.check_available()
    idle = sampling_settings(settings)
    if idle and not config.do_sample:
        warnings.warn(f"{', '.join(idle)}: no effect without do_sample=True; the text is greedy", stacklevel=3)
    return config


def _one_of(inputs: Any, input_ids: Any) -> Any:
    if inputs is not None and input_ids is not None:
        raise ConfigError("inputs and input_ids are two names for the prompt; give one of them")
    return input_ids if inputs is None else inputs


def _loop(
    model: Any, prompts: list[list[int]], config: GenerationConfig, tokenizer: Any, settings: dict[str, Any]
) -> DecodingLoop:
    context = context_length(model)
    limits = [_limit(index, len(prompt), config, context, settings) for index, prompt in enumerate(prompts)]
    rows = []
    for prompt, limit, generator in zip(prompts, limits, row_generators(prompts, config.seed), strict=True):
        text = None if tokenizer is None else RowText(tokenizer, prompt, config.stop_list)
        rows.append(Row(list(prompt), limit, generator, text))
    return DecodingLoop(model, rows, config, context)


def _limit(index: int, length: int, config: GenerationConfig, context: int | None, settings: dict[str, Any]) -> int:
    """How many tokens may follow prompt `index` of `length` tokens. What the call says goes first; the default number
    shrinks to what the context has room for."""
    wanted, by_default = config.max_new_tokens, config.max_new_tokens == DEFAULT_NEW_TOKENS
    asked = settings.get("max_new_tokens") is not None
    if config.max_length is not None and not asked and (by_default or settings.get("max_length") is not None):
        wanted, asked = config.max_length - length, True
        if wanted < 1:
            raise ConfigError(
                f"prompt {index} has {length} tokens, and max_length={config.max_length} counts them too; raise it, or "
                "set max_new_tokens instead"
            )
    if context is None or config.slide_context:
        return wanted
    room = context - length
    if room < 1:
        raise ConfigError(
            f"prompt {index} has {length} tokens, and the model sees at most {context}; shorten it to {context - 1} or "
            "less, or set slide_context=True to go on with the newer half"
        )
    if wanted > room and (asked or not by_default):
        raise ConfigError(
            f"prompt {index} of {length} tokens and {wanted} new ones are {length + wanted}, and the model sees "
            f"at most {context}; set max_new_tokens to {room} or less, shorten the prompt, or set slide_context=True"
        )
    return min(wanted, room)


def _padding(config: GenerationConfig) -> int:
    candidates = [config.pad_token_id, *config.eos_token_ids]
    return next((token for token in candidates if token is not None), 0)


def _pieces(loop: DecodingLoop, streamer: Any) -> Iterator[str]:
    """Runs the loop; yields the new text of a single row piece by piece, and tells the streamer."""
    row = loop.rows[0]
    as_text = isinstance(streamer, TextStreamer)
    try:
        if as_text:
            streamer.put_text(row.text.prompt_text)
        elif streamer is not None:
            streamer.put(np.array(row.ids, np.int32))
        for _ in loop:
            if streamer is not None and not as_text:
                streamer.put(np.array(row.ids[-1:], np.int32))
            if row.text is not None and (piece := row.text.take()):
                if as_text:
                    streamer.put_text(piece)
                yield piece
    finally:
        if streamer is not None:
            streamer.end()  # also after an error: whoever reads in another thread must not wait for ever


def _output(rows: list[Row], padding: int) -> GenerateOutput:
    prompt_width = max(row.prompt_length for row in rows)
    width = prompt_width + max(row.new_tokens for row in rows)
    sequences = np.full((len(rows), width), padding, np.int32)
    for sequence, row in zip(sequences, rows, strict=True):
        start = prompt_width - row.prompt_length
        sequence[start : start + len(row.ids)] = row.ids
    texts = [row.text.text for row in rows if row.text is not None]
    reasons = [str(row.finish_reason) for row in rows]
    return GenerateOutput(sequences, texts or None, reasons, [row.new_tokens for row in rows])
