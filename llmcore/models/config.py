"""What all model configurations share: JSON in the Hugging Face layout, read strictly.

A field that is not known is refused by name, because it may change what the model computes. Fields that only concern
other software, or that are known to leave the result alone, are listed here.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from llmcore.errors import ConfigError
from llmcore.models.dimensions import Dimensions
from llmcore.text_file import write_text

Config = TypeVar("Config", bound="ModelConfig")

# Fields of transformers' configurations that do not change logits or loss: bookkeeping, what is returned, task heads.
_WITHOUT_EFFECT = frozenset(
    """
    _attn_implementation _commit_hash _name_or_path architectures attn_implementation chunk_size_feed_forward dtype
    id2label is_decoder label2id model_type name_or_path output_attentions output_hidden_states output_scores
    problem_type return_dict return_dict_in_generate task_specific_params tokenizer_class torch_dtype torchscript
    transformers_version use_cache
    """.split()
)
# Fields that would change the result, were they not at the value that every known model has.
_ONLY_VALUE: dict[str, Any] = {
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "cross_attention_hidden_size": None,
    "pruned_heads": {},
    "quantization_config": None,
    "tie_encoder_decoder": False,
}


@dataclasses.dataclass
class ModelConfig:
    """Base of the configurations. Subclasses are dataclasses with the field names of transformers."""

    model_type: ClassVar[str] = ""
    without_effect: ClassVar[frozenset[str]] = frozenset()  # beside those above
    only_value: ClassVar[dict[str, Any]] = {}  # likewise
    # This architecture's fields for what `resized` takes; dropout may be several.
    size_fields: ClassVar[dict[str, str]] = {}
    dropout_fields: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_dict(cls: type[Config], values: dict[str, Any], source: str = "config") -> Config:
        """Raises ConfigError for a field that is unknown or has a value which this library does not compute."""
        known = {field.name for field in dataclasses.fields(cls)}
        only_value = {**_ONLY_VALUE, **cls.only_value}
        chosen = {}
        for name, value in values.items():
            if name in known:
                chosen[name] = value
            elif name in only_value:
                if value != only_value[name]:
                    raise ConfigError(f"{source}: {name}={value!r} is not supported, only {only_value[name]!r}")
            elif name in _WITHOUT_EFFECT or name in cls.without_effect:
                continue
            else:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(
                    f"{source}: unknown field {name!r} ({value!r}) for a {cls.model_type} model: it may change what "
                    f"the model computes, so it is refused{hint}"
                )
        return cls(**chosen)

    def replace(self: Config, **changes: Any) -> Config:
        """A copy with other values. Raises ConfigError for a name that is no field."""
        known = {field.name for field in dataclasses.fields(self)}
        for name in changes:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"{type(self).__name__} has no field {name!r}{hint}")
        return dataclasses.replace(self, **changes)

    def dimensions(self) -> Dimensions:
        """Sizes of the language model with this configuration."""
        raise NotImplementedError

    def resized(self: Config, dropout: float | None = None, **sizes: int | None) -> Config:
        """A copy with other sizes, whatever the architecture calls them: layers, heads, width, positions. None keeps
        the present value. Raises ConfigError where they do not go together.
        """
        changes: dict[str, Any] = {self.size_fields[name]: size for name, size in sizes.items() if size is not None}
        if dropout is not None:
            changes |= dict.fromkeys(self.dropout_fields, dropout)
        return self.replace(**changes)

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "model_type": self.model_type}

    def save_pretrained(self, directory: str | Path) -> None:
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "config.json", json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n")

    @classmethod
    def from_pretrained(cls: type[Config], directory: str | Path) -> Config:
        values = read_config(directory)
        if values.get("model_type") != cls.model_type:
            raise ConfigError(
                f"{directory}: this is a {values.get('model_type')!r} model, {cls.__name__} reads {cls.model_type!r}"
            )
        return cls.from_dict(values, source=str(Path(directory) / "config.json"))


def read_config(directory: str | Path) -> dict[str, Any]:
    """The content of config.json. Raises ConfigError if there is none or it is not a JSON object."""
    path = Path(directory) / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: no model configuration there ({error.strerror}); expected a directory with config.json and "
            "model.safetensors, as save_pretrained writes it"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values
