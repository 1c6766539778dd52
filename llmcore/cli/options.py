"""From a dataclass, a YAML file and flags to settings. tyro parses; this file makes flags and YAML the same to it.

A verb's options are a dataclass that derives from `CommonOptions`. Before tyro sees the flags they are normalised:
other spellings of a training setting become its name, a bare flag of a yes/no option gets its value, and the entries of
the file given by `--config` are put in front as flags (so that a flag wins over the file, and both are checked alike).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from llmcore.errors import ConfigError
from llmcore.training.argument_names import ALIASES, IGNORED, REFUSED, UNAVAILABLE, translate_names
from llmcore.training.arguments import TrainingArguments

Options = TypeVar("Options", bound="CommonOptions")

_FLAG = re.compile(r"--([A-Za-z][A-Za-z0-9_-]*)(?:=(.*))?", re.DOTALL)
MOST_THREADS = 1024  # of set_num_threads
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclasses.dataclass(kw_only=True)
class CommonOptions:
    """What every verb takes."""

    config: str | None = None
    """YAML file with options of this verb; flags override it."""

    json: bool = False
    """Print the result as one JSON object on stdout."""

    debug: bool = False
    """Show where an error comes from."""

    given: tyro.conf.Suppress[tuple[str, ...]] = ()
    # names of the options that the user set, by flag or file; filled in by `parse`


@dataclasses.dataclass
class TrainingFlags(TrainingArguments):
    """Settings of the training run, with the names of transformers."""

    def __post_init__(self) -> None:
        pass  # `arguments` checks, when the verb has filled in what depends on the data

    def arguments(self, **changes: Any) -> TrainingArguments:
        """The checked TrainingArguments. Raises ConfigError."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(TrainingArguments)}
        return TrainingArguments(**{**values, **changes})


class UsageError(ConfigError):
    """The command line is not understood."""


def use_threads(count: int) -> None:
    """Obeys `--num_threads`: 0 leaves the default, all CPUs that this process may use."""
    from llmcore import _core

    if not 0 <= count <= MOST_THREADS:
        raise UsageError(f"--num_threads is from 0 (all that this process may use) to {MOST_THREADS}, got {count}.")
    if count:
        _core.set_num_threads(count)


def parse(options: type[Options], argv: Sequence[str], verb: str) -> Options:
    """The options of `verb`: defaults, then the `--config` file, then `argv`. Prints the help and exits if asked to.

    Raises UsageError for an unknown name, with the nearest known one; exits with status 2 for a value that cannot be.
    """
    kinds = option_kinds(options)
    flags, rest = _split_flags(argv, kinds, verb)
    positional = _positionals(options)
    merged: dict[str, list[str]] = {}
    defaults: dict[str, Any] = {}
    for name, value in _read_config(flags, kinds, verb).items():
        if name in positional:
            defaults[name] = value
        else:
            merged[name] = _tokens(value, kinds[name])
    merged.update(flags)
    tokens = [*rest]
    for name, values in merged.items():
        # `--prompt=-x`: a value with a leading dash would be taken for a flag
        glued = len(values) == 1 and values[0].startswith("-") and values[0] != "-" and not _is_number(values[0])
        tokens += [f"--{name}={values[0]}"] if glued else [f"--{name}", *values]
    default = {"default": options(**_as_given(defaults, kinds))} if defaults else {}
    parsed = tyro.cli(
        options,
        args=tokens,
        prog=f"llmcore {verb}",
        use_underscores=True,
        config=(tyro.conf.FlagConversionOff, tyro.conf.OmitArgPrefixes),
        **default,
    )
    parsed.given = (*merged, *defaults)
    return parsed


# ------------------------------------------------------------------------------------------------------------- fields


@functools.cache
def option_kinds(options: type) -> dict[str, Any]:
    """Name -> type of every option, those of a nested TrainingFlags included."""
    kinds: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(options).items():
        if name == "given":
            continue
        if isinstance(hint, type) and issubclass(hint, TrainingArguments):
            kinds.update(typing.get_type_hints(TrainingArguments))
        else:
            kinds[name] = hint
    return kinds


def _positionals(options: type) -> set[str]:
    """The options that are written without --name."""
    (marker,) = tyro.conf.Positional[int].__metadata__  # type: ignore[attr-defined]
    hints = typing.get_type_hints(options, include_extras=True)
    return {name for name, hint in hints.items() if marker in getattr(hint, "__metadata__", ())}


def _members(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _is_boolean(kind: Any) -> bool:
    return bool in _members(kind)


def _as_given(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Positional values of a file as the command line would have them: strings, or lists of strings."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        words = [str(word) for word in value] if isinstance(value, list) else [str(value)]
        result[name] = words if _is_made_of(kinds[name], list) else words[0]
    return result


# -------------------------------------------------------------------------------------------------------------- flags


def _split_flags(argv: Sequence[str], kinds: Mapping[str, Any], verb: str) -> tuple[dict[str, list[str]], list[str]]:
    """Flags by their canonical name, and the tokens before the first flag."""
    flags: dict[str, list[str]] = {}
    rest: list[str] = []
    position = 0
    while position < len(argv):
        match = _FLAG.fullmatch(argv[position])
        position += 1
        if match is None or argv[position - 1] == "--help":
            rest.append(argv[position - 1])
            continue
        values = []
        while position < len(argv) and _FLAG.fullmatch(argv[position]) is None and argv[position] != "-h":
            values.append(argv[position])
            position += 1
        name, value = match[1].replace("-", "_"), match[2]
        if value is not None:
            values.insert(0, value)
        name, values, surplus = _normalise(name, values, kinds, verb)
        if name:
            flags[name] = values
        rest += surplus
    return flags, rest


def _normalise(name: str, values: list[str], kinds: Mapping[str, Any], verb: str) -> tuple[str, list[str], list[str]]:
    """Canonical name ("" for an option to be ignored), its values, and what followed but does not belong to it."""
    has_training = "learning_rate" in kinds
    if name not in kinds and has_training and name in {*ALIASES, *IGNORED, *UNAVAILABLE, *REFUSED}:
        loaded = [_scalar(value) for value in values] or [True]
        try:
            translated = translate_names({name: loaded[0] if len(loaded) == 1 else loaded}, kinds)
        except TypeError as error:
            raise UsageError(f"--{name}: {REFUSED.get(name, error)}.") from None
        for target, value in translated.items():
            return target, _tokens(value, kinds[target]), []
        return "", [], []
    if name not in kinds and name.startswith("no_") and _is_boolean(kinds.get(name[3:])):
        return name[3:], ["False"], values
    if name not in kinds:
        raise UsageError(f"{verb} has no option --{name}{_nearest(name, kinds, has_training)}")
    kind = kinds[name]
    if kind is bool or kind == (bool | None):
        lowered = values[0].lower() if values else ""
        if lowered in _TRUE or lowered in _FALSE:
            return name, [str(lowered in _TRUE)], values[1:]
        if lowered in ("none", "auto", "null") and kind is not bool:
            return name, ["None"], values[1:]
        return name, ["True"], values
    if _is_boolean(kind) and not values:
        return name, ["True"], []
    if _is_made_of(kind, dict):
        is_json = len(values) == 1 and values[0].lstrip().startswith("{")
        return name, _tokens(_scalar(values[0]), kind) if is_json else values, []
    if _is_made_of(kind, list):
        return name, values, []
    return name, [_whole(value, kind) for value in values[:1]], values[1:]


def _nearest(name: str, kinds: Mapping[str, Any], has_training: bool) -> str:
    known = [*kinds, *ALIASES, *IGNORED] if has_training else [*kinds]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean --{close[0]}?" if close else "; --help lists them."


def _is_made_of(kind: Any, container: type) -> bool:
    return any(typing.get_origin(member) is container for member in _members(kind))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --------------------------------------------------------------------------------------------------------------- YAML


def _read_config(flags: dict[str, list[str]], kinds: Mapping[str, Any], verb: str) -> dict[str, Any]:
    """The entries of the `--config` file under canonical names; {} without one."""
    path = flags.get("config", [])
    if not path:
        return {}
    if len(path) > 1:
        raise UsageError(f"--config takes one file, got {len(path)}.")
    try:
        text = Path(path[0]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path[0]} cannot be read: {getattr(error, 'strerror', error)}.") from None
    entries = load_yaml(text, path[0])
    if entries is None:
        return {}
    if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries):
        raise ConfigError(f"{path[0]} must hold `name: value` lines, got {type(entries).__name__}.")
    result: dict[str, Any] = {}
    for name, value in entries.items():
        known = name.replace("-", "_")
        if known in kinds:
            translated = {known: value}
        elif "learning_rate" in kinds and known in {*ALIASES, *IGNORED, *UNAVAILABLE, *REFUSED}:
            try:
                translated = translate_names({known: value}, kinds)
            except TypeError as error:
                raise ConfigError(f"{path[0]}: {name}: {REFUSED.get(known, error)}.") from None
        else:
            hint = _nearest(known, kinds, "learning_rate" in kinds).replace("--", "").replace("; help lists them.", "")
            raise ConfigError(f"{path[0]}: {verb} has no option {name!r}{hint}")
        for target in translated:
            if target in result:
                raise ConfigError(f"{path[0]} sets {target!r} twice; keep one of the lines.")
        result.update(translated)
    result.pop("config", None)
    return result


def load_yaml(text: str, source: str) -> Any:
    """The value of a YAML text. Numbers such as 1e-5 are numbers (YAML 1.1 wants 1.0e-5). Raises ConfigError."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    # a copy per class, so that nobody else's SafeLoader changes
    resolvers = yaml.SafeLoader.yaml_implicit_resolvers
    Loader.yaml_implicit_resolvers = {key: list(value) for key, value in resolvers.items()}
    number = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)[eE][-+]?[0-9]+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{source}{place}: this is not YAML: {getattr(error, 'problem', error)}.") from None


def _scalar(text: str) -> Any:
    return load_yaml(text, "the value " + repr(text))


def _tokens(value: Any, kind: Any) -> list[str]:
    """A YAML value as the words that would follow the flag."""
    if isinstance(value, dict):
        return [str(part) for pair in value.items() for part in pair]
    if isinstance(value, (list, tuple)):
        return [str(part) for part in value]
    if isinstance(value, bool) and typing.get_origin(kind) is typing.Literal:
        return ["yes" if value and "yes" in typing.get_args(kind) else "no" if not value else str(value)]
    return [_whole(str(value), kind)]


def _whole(text: str, kind: Any) -> str:
    """`1e4` as `10000` where a whole number is expected."""
    members = _members(kind)
    if int in members and float not in members and _is_number(text) and float(text).is_integer():
        return str(int(float(text))) if not text.lstrip("+-").isdigit() else text
    return text
