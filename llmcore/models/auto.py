"""Finds the class for a model directory by the `model_type` in its config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmcore import _core
from llmcore.errors import ConfigError
from llmcore.models.config import ModelConfig, read_config
from llmcore.models.gpt2 import GPT2Config, GPT2LMHeadModel
from llmcore.models.llama import LlamaConfig, LlamaForCausalLM
from llmcore.models.pretrained import PreTrainedModel

CONFIGS: dict[str, type[ModelConfig]] = {"gpt2": GPT2Config, "llama": LlamaConfig}
CAUSAL_LM: dict[str, type[PreTrainedModel]] = {"gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM}


def _find(table: dict[str, Any], model_type: Any, source: str) -> Any:
    if model_type not in table:
        raise ConfigError(f"{source}: model_type {model_type!r} is not known here; known: {', '.join(sorted(table))}")
    return table[model_type]


class AutoConfig:
    @staticmethod
    def from_pretrained(directory: str | Path) -> ModelConfig:
        """The configuration in a model directory. Raises ConfigError."""
        return _find(CONFIGS, read_config(directory).get("model_type"), str(directory)).from_pretrained(directory)


class AutoModelForCausalLM:
    @staticmethod
    def from_pretrained(
        directory: str | Path, dtype: _core.DType | None = None, device: str = "cpu"
    ) -> PreTrainedModel:
        """The causal language model in a directory. Raises ConfigError, CheckpointError."""
        model_class = _find(CAUSAL_LM, read_config(directory).get("model_type"), str(directory))
        return model_class.from_pretrained(directory, dtype=dtype, device=device)

    @staticmethod
    def from_config(config: ModelConfig, seed: int = 42, dtype: _core.DType = _core.DType.float32) -> PreTrainedModel:
        """A new model with random weights."""
        return _find(CAUSAL_LM, config.model_type, "config")(config, seed=seed, dtype=dtype)
