"""`llmcore config-schema [VERB]`: the JSON schema of a `--config` file, for editors that complete and check YAML."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import textwrap
import types
import typing
from typing import Annotated, Any

import tyro

from llmcore.cli.options import CommonOptions, UsageError, option_kinds, parse

# verb -> its options; the verbs whose settings are worth a file
_CLASSES = {
    "pretrain": "PretrainOptions",
    "finetune": "FinetuneOptions",
    "chat": "ChatOptions",
    "prepare": "PrepareOptions",
    "tokenizer": "TokenizerOptions",
    "generate": "GenerateOptions",
    "evaluate": "EvaluateOptions",
    "profile": "ProfileOptions",
    "quickstart": "QuickstartOptions",
}
_SIMPLE = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}


@dataclasses.dataclass(kw_only=True)
class ConfigSchemaOptions(CommonOptions):
    """Print the JSON schema of a verb's config file."""

    verb: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="VERB")]] = "pretrain"
    """The verb whose options the file sets."""


def main(argv: list[str]) -> None:
    """Runs the verb."""
    options = parse(ConfigSchemaOptions, argv, "config-schema")
    if options.verb not in _CLASSES:
        raise UsageError(f"there is a schema for {', '.join(_CLASSES)}, not for {options.verb!r}.")
    module = importlib.import_module(f"llmcore.cli.{options.verb}")
    print(json.dumps(schema_of(getattr(module, _CLASSES[options.verb]), options.verb), indent=2))


def schema_of(options: type, verb: str) -> dict[str, Any]:
    """The schema of the flat mapping that `--config` takes."""
    example = options()
    texts, defaults = {}, {}
    for part in (example, *(v for v in vars(example).values() if dataclasses.is_dataclass(v))):
        texts.update(field_texts(type(part)))
        defaults.update({field.name: getattr(part, field.name) for field in dataclasses.fields(part)})
    properties = {}
    for name, kind in option_kinds(options).items():
        if name in ("config", "debug"):
            continue
        properties[name] = {"description": texts.get(name, ""), **json_type(kind), "default": defaults[name]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"llmcore {verb}",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def json_type(kind: Any) -> dict[str, Any]:
    """The JSON schema of a type hint as options use them."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        schemas = [json_type(part) for part in parts]
        if all(set(schema) == {"type"} for schema in schemas):
            return {"type": [schema["type"] for schema in schemas]}
        return {"anyOf": schemas}
    if origin is typing.Literal:
        return {"enum": list(parts)}
    if origin in (list, tuple):
        return {"type": "array", "items": json_type(parts[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": json_type(parts[1])}
    return {"type": _SIMPLE[kind]}


def field_texts(options: type) -> dict[str, str]:
    """The docstrings below the fields of a dataclass, those of its bases included."""
    texts: dict[str, str] = {}
    for owner in reversed(options.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body  # type: ignore[attr-defined]
        for field, text in zip(body, body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                texts[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return texts
