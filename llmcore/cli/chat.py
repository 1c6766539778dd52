"""`llmcore chat MODEL`: a conversation with a model, in its chat template."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated, Any

import tyro

from llmcore.cli.options import CommonOptions, UsageError, parse, use_threads
from llmcore.errors import ConfigError


@dataclasses.dataclass(kw_only=True)
class ChatOptions(CommonOptions):
    """Talk with a model. An empty line or the end of the input ends it; /clear begins anew."""

    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]] = ""
    """Folder of the model, or a .gguf file."""

    prompt: list[str] = dataclasses.field(default_factory=list)
    """What the user says, one turn after the other; none given asks on the terminal."""

    system: str | None = None
    """What the system says first."""

    max_new_tokens: int = 512
    """Tokens of an answer at most."""

    temperature: float = 0.0
    """Above 0: draw from the distribution; 0 takes the likeliest token."""

    top_p: float | None = None
    """Draw among the likeliest tokens that together have this probability."""

    seed: int | None = None
    """The same seed draws the same answers."""

    device: str = "auto"
    """auto (a GPU where there is one that this build can use), cpu, cuda or cuda:0."""

    num_threads: int = 0
    """CPU threads; 0 means all that this process may use."""


def main(argv: list[str]) -> None:
    """Runs the verb."""
    options = parse(ChatOptions, argv, "chat")
    if not options.model:
        raise UsageError("chat needs a model: llmcore chat out")
    if options.temperature < 0:
        raise UsageError(f"--temperature is 0 (the likeliest token) or more, got {options.temperature:g}.")
    if options.temperature == 0 and {"top_p", "seed"} & set(options.given):
        raise UsageError("--top_p and --seed are for answers that are drawn: give --temperature above 0, too.")
    from llmcore.cli.output import print_result
    from llmcore.data.chat_template import import_jinja
    from llmcore.machine import find_device

    import_jinja()
    use_threads(options.num_threads)
    model, tokenizer = load(options.model, find_device(options.device))
    messages = [{"role": "system", "content": options.system}] if options.system else []
    if options.json and not options.prompt:
        raise UsageError("chat --json needs --prompt.")
    for said in options.prompt or _turns():
        if said == "/clear":
            messages = messages[:1] if options.system else []
            continue
        messages.append({"role": "user", "content": said})
        answer = reply(model, tokenizer, messages, options, show=not options.json)
        messages.append({"role": "assistant", "content": answer})
    if options.json:
        print_result({"model": options.model, "messages": messages}, "", True)


def load(model: str, device: str = "cpu") -> tuple[Any, Any]:
    """Model and tokenizer of a folder or a .gguf file. Raises ConfigError without a chat template."""
    from pathlib import Path

    from llmcore.models import AutoModelForCausalLM

    path = Path(model)
    if path.suffix == ".gguf":
        loaded = AutoModelForCausalLM.from_pretrained(path.parent, device=device, gguf_file=path.name)
    else:
        loaded = AutoModelForCausalLM.from_pretrained(path, device=device)
    if loaded.peft_config is not None:
        loaded.merge_and_unload()  # an adapter that is part of the weights costs nothing
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        raise ConfigError(f"{model} holds no tokenizer.json: a conversation needs the model's tokenizer beside it")
    if tokenizer.chat_template is None:
        raise ConfigError(
            f"{model} has no chat template: it is no model for conversations; llmcore generate continues text"
        )
    return loaded, tokenizer


def reply(model: Any, tokenizer: Any, messages: list[dict[str, str]], options: ChatOptions, show: bool) -> str:
    """The assistant's answer, written to stdout while it is made."""
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    settings: dict[str, Any] = {"max_new_tokens": options.max_new_tokens, "do_sample": options.temperature > 0}
    if options.temperature > 0:
        settings |= {"temperature": options.temperature}
        settings |= {"top_p": options.top_p} if options.top_p is not None else {}
        settings |= {"seed": options.seed} if options.seed is not None else {}
    pieces = []
    for piece in model.generate([ids], tokenizer=tokenizer, stream=True, slide_context=True, **settings):
        pieces.append(piece)
        if show:
            sys.stdout.write(piece)
            sys.stdout.flush()
    if show:
        sys.stdout.write("\n")
        sys.stdout.flush()
    return "".join(pieces)


def _turns() -> Any:
    """What is typed (or piped in), line by line, until an empty line or the end."""
    while True:
        if sys.stdin.isatty():
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line.strip():
            return
        yield line.strip()
