"""Saving and loading models in the Hugging Face directory layout, common to all architectures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from llmcore import _core, nn, tensor_file
from llmcore.autograd import Generator
from llmcore.errors import CheckpointError
from llmcore.generation import GenerationConfig, GenerationMixin
from llmcore.models.config import ModelConfig

Model = TypeVar("Model", bound="PreTrainedModel")

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"


class PreTrainedModel(nn.Module, GenerationMixin):
    """A model with a configuration, which `save_pretrained` writes and `from_pretrained` reads.

    `generator` is the source of dropout masks; `generation_config` travels in generation_config.json; `name_or_path` is
    the directory that the model was loaded from, if any.
    """

    config_class: ClassVar[type[ModelConfig]]
    config: ModelConfig
    generator: Generator
    activation_checkpointing: bool = False

    def __init__(self, config: ModelConfig, seed: int):
        self.config = config
        self.generator = Generator(seed)
        self.generation_config = GenerationConfig.from_model_config(config)
        self.name_or_path = ""
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """What lets `generate` take and return text: the tokenizer that was attached, or the one in the directory that
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
        """Writes config.json, model.safetensors (tied weights once) and generation_config.json.

        Each file appears under its name only when it is complete.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{WEIGHTS}.tmp"
        temporary.unlink(missing_ok=True)
        tensor_file.write_tensors(temporary, self.numpy_state())
        temporary.replace(folder / WEIGHTS)
        self.save_config(folder)

    def save_config(self, directory: str | Path) -> None:
        """The files beside the weights: config.json and generation_config.json."""
        folder = Path(directory)
        values = {**self.config.to_dict(), "architectures": [type(self).__name__], "dtype": self.dtype.name}
        (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
        self.generation_config.save_pretrained(folder)

    def numpy_state(self) -> dict[str, np.ndarray]:
        """The weights by their published names as arrays; bfloat16 as its uint16 bits. Views, not copies."""
        return {
            name: value.bf16_bits() if value.dtype == _core.DType.bfloat16 else value.numpy()
            for name, value in self.state_dict().items()
        }

    @classmethod
    def from_pretrained(
        cls: type[Model], directory: str | Path, dtype: _core.DType | None = None, device: str = "cpu", seed: int = 42
    ) -> Model:
        """Reads a directory that `save_pretrained`, ours or transformers', has written.

        `dtype` converts; None keeps bfloat16 weights as they are and makes everything else float32. Raises ConfigError
        for a configuration that is not understood in full, CheckpointError for weights that are incomplete or do not
        fit.
        """
        folder = Path(directory)
        config = cls.config_class.from_pretrained(folder)
        weights = read_weights(folder)
        if dtype is None:
            stored_as_bf16 = all(array.dtype == np.uint16 for array in weights.values())
            dtype = _core.DType.bfloat16 if stored_as_bf16 else _core.DType.float32
        model = cls(config, seed=seed, dtype=dtype, device=device, initialize=False)
        try:
            model.load_state_dict({name: _to_tensor(array) for name, array in model.rename(weights).items()})
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{folder}: the weights do not fit this {cls.__name__}: {error.args[0]}") from None
        model.name_or_path = str(folder)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        return model

    def rename(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """From the names in a file to this model's: hook for published variants. Drops what is not a parameter."""
        return dict(weights)


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of model.safetensors, or of the files that its index lists (bfloat16 as uint16)."""
    if (folder / WEIGHTS).is_file():
        # Hub caches hold symbolic links to blobs: resolve here, the reader itself follows none.
        return tensor_file.read_tensors((folder / WEIGHTS).resolve())[0]
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        raise CheckpointError(f"{folder}: neither {WEIGHTS} nor {WEIGHTS_INDEX} is there")
    names = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {})
    tensors: dict[str, np.ndarray] = {}
    for file_name in sorted(set(names.values())):
        if Path(file_name).name != file_name:
            raise CheckpointError(f"{index}: {file_name!r} is not a plain file name")
        tensors.update(tensor_file.read_tensors((folder / file_name).resolve())[0])
    return tensors


def _to_tensor(array: np.ndarray) -> _core.Tensor:
    if array.dtype != np.uint16:
        return _core.from_numpy(array)
    return _core.from_bf16_bits(array)
