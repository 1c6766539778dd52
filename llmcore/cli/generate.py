"""`llmcore generate DIR --prompt ...`: a model continues a text."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from llmcore.cli.options import CommonOptions, UsageError, parse, use_threads


@dataclasses.dataclass(kw_only=True)
class GenerateOptions(CommonOptions):
    """Let a model continue a text. Without --prompt the text comes from standard input."""

    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]] = ""
    """Folder of the model, as a run leaves it."""

    prompt: list[str] = dataclasses.field(default_factory=list)
    """Text to continue; several are continued one after the other."""

    prompt_file: str | None = None
    """File with the text to continue."""

    max_new_tokens: int | None = None
    """Tokens to write at most; None means 256, or what the model's context has room for."""

    temperature: float | None = None
    """Above 0: draw from the distribution, sharper below 1 and flatter above; 0 takes the likeliest token."""

    do_sample: bool | None = None
    """Draw tokens; None means yes if a sampling option is given."""

    top_k: int | None = None
    """Draw among this many likeliest tokens; 0 means all."""

    top_p: float | None = None
    """Draw among the likeliest tokens that together have this probability."""

    min_p: float | None = None
    """Draw among tokens with at least this part of the likeliest one's probability."""

    repetition_penalty: float | None = None
    """Above 1: tokens that occur already become less likely."""

    no_repeat_ngram_size: int | None = None
    """No group of this many tokens occurs twice."""

    stop: list[str] = dataclasses.field(default_factory=list)
    """End before the first of these strings."""

    num_return_sequences: int | None = None
    """Texts for each prompt; more than one draws tokens."""

    seed: int | None = None
    """The same seed draws the same text."""

    slide_context: bool = True
    """When the model's context is full, go on with its newer half."""

    stream: bool | None = None
    """Show the text while it is written; None means yes on a terminal."""

    device: str = "auto"
    """auto (a GPU where there is one that this build can use), cpu, cuda or cuda:0."""

    num_threads: int = 0
    """CPU threads; 0 means all that this process may use."""


_SAMPLING = ("temperature", "top_k", "top_p", "min_p")


def main(argv: list[str]) -> None:
    """Runs the verb."""
    options = parse(GenerateOptions, argv, "generate")
    if not options.model:
        raise UsageError('generate needs the folder of a model: llmcore generate out --prompt "Once"')
    prompts = _prompts(options)
    settings = generation_settings(options)

    from llmcore.cli.output import print_result
    from llmcore.data.tokenizer import Tokenizer
    from llmcore.machine import find_device
    from llmcore.models import AutoModelForCausalLM

    use_threads(options.num_threads)
    model = AutoModelForCausalLM.from_pretrained(options.model, device=find_device(options.device))
    tokenizer = Tokenizer.from_pretrained(options.model)
    stream = sys.stdout.isatty() if options.stream is None else options.stream
    if stream and not options.json and settings.get("num_return_sequences", 1) == 1:
        for prompt in prompts:
            stream_text(model, tokenizer, prompt, settings)
        return
    results = []
    for prompt in prompts:
        output = model.generate([prompt], tokenizer=tokenizer, return_dict_in_generate=True, **settings)
        texts = zip(output.texts, output.finish_reasons, output.new_tokens, strict=True)
        results += [
            {"prompt": prompt, "text": text, "finish_reason": reason, "new_tokens": count}
            for text, reason, count in texts
        ]
    shown = "\n\n".join(result["prompt"] + result["text"] for result in results)
    print_result({"model": options.model, "results": results}, shown, options.json)


def stream_text(model: Any, tokenizer: Any, prompt: str, settings: dict[str, Any]) -> None:
    """Writes prompt and continuation to stdout while it is generated."""
    sys.stdout.write(prompt)
    for piece in model.generate(prompt, tokenizer=tokenizer, stream=True, **settings):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()


def generation_settings(options: GenerateOptions) -> dict[str, Any]:
    """The settings that the user gave, under the names of GenerationConfig."""
    names = (*_SAMPLING, "max_new_tokens", "repetition_penalty", "no_repeat_ngram_size", "num_return_sequences", "seed")
    settings = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.stop:
        settings["stop_strings"] = options.stop
    asks_for_sampling = any(name in settings for name in _SAMPLING) or settings.get("num_return_sequences", 1) > 1
    do_sample = options.do_sample if options.do_sample is not None else asks_for_sampling
    if settings.get("temperature") == 0:
        do_sample, settings = False, {name: value for name, value in settings.items() if name not in _SAMPLING}
    return {**settings, "do_sample": do_sample, "slide_context": options.slide_context}


def _prompts(options: GenerateOptions) -> list[str]:
    if options.prompt and options.prompt_file is not None:
        raise UsageError("give --prompt or --prompt_file, not both.")
    if options.prompt:
        prompts = options.prompt
    elif options.prompt_file is not None:
        prompts = [Path(options.prompt_file).read_text(encoding="utf-8", errors="replace")]
    elif sys.stdin.isatty():
        raise UsageError('generate needs a text to continue: --prompt "..."')
    else:
        prompts = [sys.stdin.read()]
    if not all(prompts):
        raise UsageError("the prompt is empty; give at least one character.")
    return prompts
