"""Saving and loading models in the Hugging Face directory layout, common to all architectures."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from llmcore import _core, nn, tensor_file
from llmcore.autograd import Generator
from llmcore.errors import CheckpointError
from llmcore.models import lora
from llmcore.models.config import ModelConfig
from llmcore.models.lora import LoraConfig
from llmcore.text_file import write_text

Model = TypeVar("Model", bound="PreTrainedModel")

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"


class PreTrainedModel(nn.Module):
    """A model with a configuration, which `save_pretrained` writes and `from_pretrained` reads.

    `generator` is the source of dropout masks; `name_or_path` is the directory that the model was loaded from, if any.
    """

    config_class: ClassVar[type[ModelConfig]]
    new_heads: ClassVar[tuple[str, ...]] = ()  # first parts of the names of parameters that a file may lack
    config: ModelConfig
    generator: Generator
    activation_checkpointing: bool = False
    peft_config: LoraConfig | None = None  # of the adapter, if there is one

    def __init__(self, config: ModelConfig, seed: int):
        self.config = config
        self.generator = Generator(seed)
        self.name_or_path = ""
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """What lets the model take and return text: the tokenizer that was attached, or the one in the directory that
        the model was loaded from; None if there is none."""
        if self._tokenizer is None and self.name_or_path and (Path(self.name_or_path) / TOKENIZER).is_file():
            from llmcore.data.tokenizer import Tokenizer

            self._tokenizer = Tokenizer.from_pretrained(self.name_or_path)
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @property
    def dtype(self) -> _core.DType:
        return next(self.parameters()).dtype

    @property
    def device(self) -> str:
        return next(self.parameters()).device

    def gradient_checkpointing_enable(self) -> None:
        """Keeps only each block's input for the backward pass and computes the rest again."""
        self.activation_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        self.activation_checkpointing = False

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes config.json, model.safetensors (tied weights once) and what else belongs to the model; of a model with
        an adapter the adapter alone, in peft's files.

        Each file appears under its name only when it is complete.
        """
        if self.peft_config is not None:
            lora.save_adapter(self, directory)
            return
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{WEIGHTS}.tmp"
        temporary.unlink(missing_ok=True)
        tensor_file.write_tensors(temporary, self.numpy_state())
        temporary.replace(folder / WEIGHTS)
        self.save_config(folder)

    def save_config(self, directory: str | Path) -> None:
        """The files beside the weights: config.json, and adapter_config.json with an adapter."""
        folder = Path(directory)
        if self.peft_config is not None:
            lora.save_adapter_config(self, folder)
        values = {**self.config.to_dict(), "architectures": [type(self).__name__], "dtype": self.dtype.name}
        write_text(folder / "config.json", json.dumps(values, indent=2, sort_keys=True) + "\n")

    # ---- the adapter, if there is one ----

    def merge_adapter(self) -> None:
        """Makes the adapter part of the weights, which then compute at full speed."""
        lora.merge_adapter(self)

    def unmerge_adapter(self) -> None:
        """Takes the adapter out of the weights again, bit for bit."""
        lora.unmerge_adapter(self)

    def merge_and_unload(self: Model) -> Model:
        """An ordinary model with the adapter in its weights: this one."""
        lora.merge_adapter(self)
        lora.unload(self)
        return self

    def unload(self: Model) -> Model:
        """The model without its adapter: this one."""
        lora.unmerge_adapter(self)
        lora.unload(self)
        return self

    def freeze(self) -> None:
        """Keeps every weight as it is in training."""
        for parameter in self.parameters():
            parameter.requires_grad = False

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """(numbers that are trained, all numbers)"""
        sizes = [(parameter.data.numel, parameter.requires_grad) for parameter in self.parameters()]
        return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)

    def print_trainable_parameters(self) -> None:
        """Prints how many numbers are trained, as peft does."""
        trained, total = self.get_nb_trainable_parameters()
        line = f"trainable params: {trained:,} || all params: {total:,} || trainable%: {100 * trained / total:.4f}"
        print(line, file=sys.stdout)

    def numpy_state(self) -> dict[str, np.ndarray]:
        """The weights by their published names as arrays; bfloat16 as its uint16 bits. Views, not copies."""
        return {
            name: value.bf16_bits() if value.dtype == _core.DType.bfloat16 else value.numpy()
            for name, value in self.state_dict().items()
        }

    @classmethod
    def from_pretrained(
        cls: type[Model],
        directory: str | Path,
        dtype: _core.DType | None = None,
        device: str = "cpu",
        seed: int = 42,
        ignore_mismatched_sizes: bool = False,
        **config_changes: Any,
    ) -> Model:
        """Reads a directory that `save_pretrained`, ours or transformers', has written.

        `dtype` converts; None keeps bfloat16 weights as they are and makes everything else float32. `config_changes`
        are fields of the configuration, as `num_labels=3`. A head that the file does not have starts from random
        weights drawn with `seed`, with a warning; with `ignore_mismatched_sizes` so does a head of another shape than
        the file's, as for another number of labels. Raises ConfigError for a configuration that is not understood in
        full, CheckpointError for weights that are incomplete or do not fit.
        """
        folder = Path(directory)
        config = cls.config_class.from_pretrained(folder).replace(**config_changes)
        weights = read_weights(folder)
        if dtype is None:
            stored_as_bf16 = all(array.dtype == np.uint16 for array in weights.values())
            dtype = _core.DType.bfloat16 if stored_as_bf16 else _core.DType.float32
        model = cls(config, seed=seed, dtype=dtype, device=device, initialize=False)
        tensors = {name: _to_tensor(array) for name, array in model.rename(weights).items()}
        own = model.state_dict()
        if ignore_mismatched_sizes:
            other = {name for name in own if name in tensors and tensors[name].shape != own[name].shape}
            tensors = {name: tensor for name, tensor in tensors.items() if name not in other & _heads(own, cls)}
        new = [name for name in own if name not in tensors and name in _heads(own, cls)]
        if new:
            message = f"{folder} has no weights for {', '.join(new)}: they start at random and have to be trained"
            warnings.warn(message, stacklevel=2)
            tensors |= {name: model.first_value(name) for name in new}
        try:
            model.load_state_dict(tensors)
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{folder}: the weights do not fit this {cls.__name__}: {error.args[0]}") from None
        model.name_or_path = str(folder)
        return model

    def first_value(self, name: str) -> _core.Tensor:
        """What parameter `name` of a new head starts from: the same as in a new model with this seed."""
        raise NotImplementedError

    def rename(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """From the names in a file to this model's: hook for published variants. Drops what is not a parameter."""
        return dict(weights)


def _heads(names: Iterable[str], model_class: type[PreTrainedModel]) -> set[str]:
    """The names of the parameters that a file may lack."""
    return {name for name in names if name.startswith(model_class.new_heads)}


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of model.safetensors, or of the files that its index lists (bfloat16 as uint16)."""
    if (folder / WEIGHTS).is_file():
        # Hub caches hold symbolic links to blobs: resolve here, the reader itself follows none.
        return tensor_file.read_tensors((folder / WEIGHTS).resolve())
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        raise CheckpointError(f"{folder}: neither {WEIGHTS} nor {WEIGHTS_INDEX} is there")
    names = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {})
    tensors: dict[str, np.ndarray] = {}
    for file_name in sorted(set(names.values())):
        if Path(file_name).name != file_name:
            raise CheckpointError(f"{index}: {file_name!r} is not a plain file name")
        tensors.update(tensor_file.read_tensors((folder / file_name).resolve()))
    return tensors


def _to_tensor(array: np.ndarray) -> _core.Tensor:
    if array.dtype != np.uint16:
        return _core.from_numpy(array)
    return _core.from_bf16_bits(array)
