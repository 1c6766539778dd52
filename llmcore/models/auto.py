"""Finds the class for a model directory by the `model_type` in its config.json."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

from llmcore import _core
from llmcore.errors import ConfigError
from llmcore.models.bert import BertConfig, BertModel
from llmcore.models.bert_heads import BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification
from llmcore.models.config import ModelConfig, read_config
from llmcore.models.gpt2 import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel
from llmcore.models.llama import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
from llmcore.models.lora import ADAPTER_CONFIG, LoraConfig, PeftModel
from llmcore.models.pretrained import PreTrainedModel

CONFIGS: dict[str, type[ModelConfig]] = {"bert": BertConfig, "gpt2": GPT2Config, "llama": LlamaConfig}


def _find(table: dict[str, Any], model_type: Any, source: str) -> Any:
    if model_type in table:
        return table[model_type]
    known = ", ".join(sorted(table))
    if model_type in CONFIGS:
        raise ConfigError(f"{source}: a model of model_type {model_type!r} cannot do this; these can: {known}")
    raise ConfigError(f"{source}: model_type {model_type!r} is not known here; known: {known}")


class AutoConfig:
    @staticmethod
    def from_pretrained(directory: str | Path) -> ModelConfig:
        """The configuration in a model directory. Raises ConfigError."""
        return _find(CONFIGS, read_config(directory).get("model_type"), str(directory)).from_pretrained(directory)


class _AutoModel:
    models: ClassVar[dict[str, type[PreTrainedModel]]]

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, dtype: _core.DType | None = None, device: str = "cpu", **options: Any
    ) -> Any:
        """The model in a directory; options as for its class. Raises ConfigError, CheckpointError.

        In a directory with an adapter of peft's kind: the base model that it names, with the adapter.
        """
        if (Path(directory) / ADAPTER_CONFIG).is_file():
            return _with_adapter(cls, Path(directory), dtype=dtype, device=device, **options)
        model_class = _find(cls.models, read_config(directory).get("model_type"), str(directory))
        return model_class.from_pretrained(directory, dtype=dtype, device=device, **options)

    @classmethod
    def from_config(cls, config: ModelConfig, seed: int = 42, dtype: _core.DType = _core.DType.float32) -> Any:
        """A new model with random weights."""
        return _find(cls.models, config.model_type, "config")(config, seed=seed, dtype=dtype)


class AutoModel(_AutoModel):
    """An encoder without a head."""

    models = {"bert": BertModel}


class AutoModelForCausalLM(_AutoModel):
    models = {"gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM}

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        dtype: _core.DType | None = None,
        device: str = "cpu",
        gguf_file: str | None = None,
        **options: Any,
    ) -> Any:
        """As for every model; with `gguf_file`, the Llama in that file of the directory (see `models.gguf`)."""
        if gguf_file is None:
            return super().from_pretrained(directory, dtype, device, **options)
        from llmcore.models.gguf import load_gguf

        return load_gguf(Path(directory) / gguf_file, dtype or _core.DType.float32, device, **options)


class AutoModelForMaskedLM(_AutoModel):
    models = {"bert": BertForMaskedLM}


class AutoModelForSequenceClassification(_AutoModel):
    models = {
        "bert": BertForSequenceClassification,
        "gpt2": GPT2ForSequenceClassification,
        "llama": LlamaForSequenceClassification,
    }


class AutoModelForTokenClassification(_AutoModel):
    models = {"bert": BertForTokenClassification}


def _with_adapter(auto: Any, folder: Path, **options: Any) -> Any:
    """The base model of an adapter, and the adapter. The labels of its head are those of the adapter's config.json."""
    config = LoraConfig.from_pretrained(folder)
    base = config.base_model_name_or_path
    if not base or not Path(base).is_dir():
        named = f"the adapter's base model {base!r} is no folder here" if base else "the adapter names no base model"
        raise ConfigError(
            f"{folder}: {named}; write its folder as base_model_name_or_path into {ADAPTER_CONFIG}, or load it and "
            "call PeftModel.from_pretrained(model, folder)"
        )
    labels = read_config(folder).get("id2label") if (folder / "config.json").is_file() else None
    if labels is not None:
        # a head for another number of labels than the base model's is in the adapter, as a whole
        options = {"id2label": labels, "ignore_mismatched_sizes": bool(config.modules_to_save), **options}
    with warnings.catch_warnings():
        # the head that the base model lacks is in the adapter; if it is not there either, loading that says so
        warnings.filterwarnings("ignore", message=".* has no weights for .*")
        model = auto.from_pretrained(base, **options)
    model = PeftModel.from_pretrained(model, folder)
    model.name_or_path = str(folder)  # where its tokenizer is
    if not (folder / "tokenizer.json").is_file():
        model.name_or_path = str(base)
    return model


def load_model(directory: str | Path, dtype: _core.DType | None = None, device: str = "cpu", **options: Any) -> Any:
    """The model in a directory, with the head that it was saved with (`architectures` in its config.json).

    Where that says nothing known, a decoder gets its language-modelling head and an encoder none.
    """
    adapter = (Path(directory) / ADAPTER_CONFIG).is_file() and not (Path(directory) / "config.json").is_file()
    config = read_config(LoraConfig.from_pretrained(directory).base_model_name_or_path if adapter else directory)
    saved = (config.get("architectures") or [None])[0]
    for auto in (
        *(AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification),
        *(AutoModelForTokenClassification, AutoModel),
    ):
        for model_class in auto.models.values():
            if model_class.__name__ == saved:
                return auto.from_pretrained(directory, dtype=dtype, device=device, **options)
    fallback = AutoModel if config.get("model_type") in AutoModel.models else AutoModelForCausalLM
    return fallback.from_pretrained(directory, dtype=dtype, device=device, **options)
