"""A conversation as the text that a model was trained on, written by its chat template.

A template is a program of somebody else's: it runs in jinja2's sandbox, where it can change nothing and reach nothing
but the conversation. The names that templates use are those of transformers.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmcore.errors import ConfigError, DataError

_MOST_CHARACTERS = 1 << 24  # of a rendered conversation: a template that loops ends here


def render_chat(
    template: str, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, **variables: Any
) -> str:
    """The text of `messages`; `add_generation_prompt` ends it where the assistant begins to speak.

    `variables`: what else the template may use, such as bos_token. Raises ConfigError if jinja2 is missing or the
    template is none, DataError where the template refuses the conversation.
    """
    import_jinja()
    from jinja2.exceptions import TemplateError

    try:
        pieces, size = [], 0
        compiled = _compile(template)
        for piece in compiled.generate(
            messages=[dict(message) for message in messages], add_generation_prompt=add_generation_prompt, **variables
        ):
            pieces.append(piece)
            size += len(piece)
            if size > _MOST_CHARACTERS:
                raise DataError(f"the chat template wrote more than {_MOST_CHARACTERS:,} characters")
    except TemplateError as error:
        raise DataError(f"the chat template refuses this conversation: {error}") from None
    return "".join(pieces)


def import_jinja() -> Any:
    """The module jinja2. Raises ConfigError with what to install."""
    try:
        import jinja2.sandbox
    except ImportError:
        raise ConfigError("chat templates need jinja2: pip install 'llmcore[chat]'") from None
    return jinja2


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> Any:
    jinja2 = import_jinja()
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda layout: datetime.datetime.now().strftime(layout)
    try:
        return environment.from_string(template)
    except jinja2.exceptions.TemplateError as error:
        raise ConfigError(f"this chat template is none that jinja2 understands: {error}") from None


def _to_json(value: Any, indent: int | None = None, sort_keys: bool = False) -> str:
    # jinja2's own filter escapes for HTML, which no model was trained on
    return json.dumps(value, ensure_ascii=False, indent=indent, sort_keys=sort_keys)


def _refuse(message: str) -> str:
    raise import_jinja().exceptions.TemplateError(message)
