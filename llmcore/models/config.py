"""What all model configurations share: JSON in the Hugging Face layout, read strictly.

A field that is not known is refused by name, because it may change what the model computes. Fields that only concern
other software, or that are known to leave the result alone, are listed here.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
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
    is_decoder model_type name_or_path output_attentions output_hidden_states output_scores
    return_dict return_dict_in_generate task_specific_params tokenizer_class torch_dtype torchscript
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


_PROBLEMS = (None, "regression", "single_label_classification", "multi_label_classification")


@dataclasses.dataclass
class ModelConfig:
    """Base of the configurations. Subclasses are dataclasses with the field names of transformers.

    `num_labels`, `id2label` and `label2id` belong to the classification heads and are derived from one another;
    `problem_type` None means regression for one label, else what the labels' type says.
    """

    model_type: ClassVar[str] = ""
    without_effect: ClassVar[frozenset[str]] = frozenset()  # beside those above
    only_value: ClassVar[dict[str, Any]] = {}  # likewise
    # This architecture's fields for what `resized` takes; dropout may be several.
    size_fields: ClassVar[dict[str, str]] = {}
    dropout_fields: ClassVar[tuple[str, ...]] = ()

    num_labels: int | None = None
    id2label: dict[int, str] | None = None
    label2id: dict[str, int] | None = None
    problem_type: str | None = None

    def __post_init__(self) -> None:
        """Checks what all have in common; subclasses check their own fields and call this."""
        name = type(self).__name__
        std = getattr(self, "initializer_range", 0.0)
        if not (math.isfinite(std) and std >= 0):
            raise ConfigError(f"{name}: initializer_range must be 0 or a number above it, got {std}")
        if self.problem_type not in _PROBLEMS:
            raise ConfigError(f"{name}: problem_type must be one of {_PROBLEMS}, got {self.problem_type!r}")
        if self.id2label is not None:
            self.id2label = {int(key): value for key, value in self.id2label.items()}
        if self.num_labels is None:
            self.num_labels = len(self.id2label) if self.id2label else 2
        if self.num_labels < 1:
            raise ConfigError(f"{name}: num_labels must be at least 1, got {self.num_labels}")
        if self.id2label is None or len(self.id2label) != self.num_labels:  # names of another number of labels
            self.id2label, self.label2id = {i: f"LABEL_{i}" for i in range(self.num_labels)}, None
        if self.label2id is None or len(self.label2id) != self.num_labels:
            self.label2id = {name: index for index, name in self.id2label.items()}

    def check_epsilon(self, field: str) -> None:
        """Raises ConfigError unless the number that a norm adds to the variance is finite and above 0."""
        value = getattr(self, field)
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{type(self).__name__}: {field} must be a number above 0, such as 1e-5, got {value}")

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
        """A copy with other values; new `id2label` or `label2id` set the others of the three, too.

        Raises ConfigError for a name that is no field.
        """
        if changes.get("label2id") and not changes.get("id2label"):
            changes["id2label"] = {index: name for name, index in changes["label2id"].items()}
        if changes.get("id2label"):
            changes = {"num_labels": None, "label2id": None, **changes}
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
        """As transformers writes it: the number of labels is that of `id2label`."""
        values = {**dataclasses.asdict(self), "model_type": self.model_type}
        del values["num_labels"]
        return values

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
