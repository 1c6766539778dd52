"""`llmcore <verb> ...`: finds the verb, runs it, and says in one sentence what went wrong."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import llmcore
from llmcore.errors import LlmcoreError

# verb -> (module in llmcore.cli, what it does). The order is that of the help text.
VERBS: dict[str, tuple[str, str]] = {
    "quickstart": ("quickstart", "train a small model on Python's standard library and complete a function"),
    "pretrain": ("pretrain", "train a model on text, from random weights"),
    "finetune": ("finetune", "train a model on for a task, whole or with LoRA"),
    "merge-lora": ("merge_lora", "make an adapter part of its base model"),
    "generate": ("generate", "let a model continue a text"),
    "chat": ("chat", "talk with a model in its chat template"),
    "evaluate": ("evaluate", "perplexity on text, accuracy and F1 on labelled rows, BLEU and ROUGE, tasks"),
    "prepare": ("prepare", "turn text into token files that training reads"),
    "tokenizer": ("tokenizer", "train a tokenizer on text"),
    "plot": ("plot", "draw the loss curves of runs"),
    "profile": ("profile", "show where the time of a training step goes"),
    "presets": ("presets", "list the model sizes that have a name"),
    "config-schema": ("config_schema", "print the JSON schema of a verb's config file"),
    "env": ("env", "print versions and hardware, for bug reports"),
}

# A verb that is interrupted ends as a shell expects it: 128 + the number of the signal.
EXIT_USAGE = 2


class Terminated(BaseException):
    """SIGTERM arrived while nothing else handled it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process with its exit status: 0, 2 for a user's error, 130/143 for signals."""
    sys.exit(run(sys.argv[1:] if argv is None else list(argv)))


def run(argv: list[str]) -> int:
    """Like `main`, but returns the exit status."""
    debug = "--debug" in argv
    argv = [token for token in argv if token != "--debug"]
    # The process belongs to the command line, so these three are its to set.
    warnings.showwarning = _show_warning
    _show_log()
    with contextlib.suppress(ValueError):  # not the main thread: a test
        signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        return _run_verb(argv)
    except SystemExit as stop:  # tyro has shown the help, or said what is wrong
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:  # `llmcore ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted.", debug, 128 + signal.SIGINT)
    except Terminated:
        return _fail("terminated.", debug, 128 + signal.SIGTERM)
    except (LlmcoreError, OSError, MemoryError) as error:
        return _fail(_sentence(error), debug, getattr(error, "exit_code", EXIT_USAGE))
    except Exception as error:
        return _fail(f"{type(error).__name__}: {error} (this is a bug; --debug shows where)", debug, 1)


def _run_verb(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if argv[0] in ("--version", "-V"):
        print(f"llmcore {llmcore.__version__}")
        return 0
    verb = argv[0].replace("_", "-")
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(VERBS)}."
        raise LlmcoreError(f"there is no verb {argv[0]!r}; {hint}")
    module = importlib.import_module(f"llmcore.cli.{VERBS[verb][0]}")
    result: Any = module.main(argv[1:])
    return int(result or 0)


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"llmcore {llmcore.__version__}: trains language models.", "", "usage: llmcore <verb> [options]", ""]
    lines += [f"  {verb:<{width}}  {summary}" for verb, (_, summary) in VERBS.items()]
    lines += [
        "",
        "`llmcore <verb> --help` lists the options of a verb. Each of them can stand in a YAML file for --config;",
        "--json prints the result as JSON, --debug shows where an error comes from.",
        "New here? `llmcore quickstart` needs nothing but a few minutes.",
    ]
    return "\n".join(lines)


def _sentence(error: BaseException) -> str:
    if isinstance(error, (FileExistsError, NotADirectoryError)) and error.filename:
        return f"{error.filename}: a folder is needed there, but a file of that name (or above it) is in the way"
    if isinstance(error, OSError) and not isinstance(error, LlmcoreError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _fail(sentence: str, debug: bool, status: int) -> int:
    if debug:
        traceback.print_exc()
    print(f"llmcore: {sentence}", file=sys.stderr)
    return status


def _raise_terminated(number: int, frame: object) -> None:
    raise Terminated


def _show_warning(message: Warning | str, *rest: object, **named: object) -> None:
    print(f"llmcore: note: {message}", file=sys.stderr)


def _show_log() -> None:
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("llmcore: %(message)s"))
    logger = logging.getLogger("llmcore")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.WARNING)
    logger.propagate = False
