"""llmcore: train language models with kernels written by hand.

Public names are imported at first use, so that `import llmcore` costs little.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Adam": "llmcore.optim",
    "AdamW": "llmcore.optim",
    "AutoConfig": "llmcore.models",
    "AutoModel": "llmcore.models",
    "AutoModelForCausalLM": "llmcore.models",
    "AutoModelForMaskedLM": "llmcore.models",
    "AutoModelForSequenceClassification": "llmcore.models",
    "AutoModelForTokenClassification": "llmcore.models",
    "AutoTokenizer": "llmcore.data.tokenizer",
    "BertConfig": "llmcore.models",
    "BertForMaskedLM": "llmcore.models",
    "BertForSequenceClassification": "llmcore.models",
    "BertForTokenClassification": "llmcore.models",
    "BertModel": "llmcore.models",
    "CheckpointError": "llmcore.errors",
    "ConfigError": "llmcore.errors",
    "DataCollatorForLanguageModeling": "llmcore.data.collators",
    "DataCollatorForTokenClassification": "llmcore.data.collators",
    "DataCollatorWithPadding": "llmcore.data.collators",
    "DataError": "llmcore.errors",
    "EarlyStoppingCallback": "llmcore.training.callbacks",
    "EvalPrediction": "llmcore.training.outputs",
    "GPT2Config": "llmcore.models",
    "GPT2ForSequenceClassification": "llmcore.models",
    "GPT2LMHeadModel": "llmcore.models",
    "GenerationConfig": "llmcore.generation",
    "LlamaConfig": "llmcore.models",
    "LlamaForCausalLM": "llmcore.models",
    "LlamaForSequenceClassification": "llmcore.models",
    "LlmcoreError": "llmcore.errors",
    "LoraConfig": "llmcore.models",
    "NonFiniteError": "llmcore.training.outputs",
    "OutOfMemoryError": "llmcore.errors",
    "PRESETS": "llmcore.models",
    "PeftModel": "llmcore.models",
    "RMSprop": "llmcore.optim",
    "SGD": "llmcore.optim",
    "Tensor": "llmcore.autograd",
    "TextIteratorStreamer": "llmcore.generation",
    "TextStreamer": "llmcore.generation",
    "Trainer": "llmcore.training.trainer",
    "TrainerCallback": "llmcore.training.callbacks",
    "TrainerControl": "llmcore.training.callbacks",
    "TrainerState": "llmcore.training.callbacks",
    "TrainingArguments": "llmcore.training.arguments",
    "are_deterministic_algorithms_enabled": "llmcore._core",
    "checkpoint": "llmcore.autograd",
    "default_data_collator": "llmcore.data.collators",
    "from_dlpack": "llmcore.autograd",
    "get_peft_model": "llmcore.models",
    "get_scheduler": "llmcore.schedule",
    "no_grad": "llmcore.autograd",
    "num_threads": "llmcore._core",
    "perplexity": "llmcore.evaluation",
    "pipeline": "llmcore.pipelines",
    "read_rows": "llmcore.data.row_files",
    "set_num_threads": "llmcore._core",
    "tensor": "llmcore.autograd",
    "use_deterministic_algorithms": "llmcore._core",
}
_DTYPES = ("float32", "bfloat16", "int32")

__all__ = ["__version__", *sorted(_PUBLIC), *_DTYPES]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
    elif name in _DTYPES:
        value = getattr(importlib.import_module("llmcore._core").DType, name)
    elif name == "_core":
        return _import_core()
    else:
        raise AttributeError(f"module 'llmcore' has no attribute {name!r}")
    globals()[name] = value
    return value


def _import_core() -> Any:
    import importlib

    try:
        return importlib.import_module("llmcore._core")
    except ModuleNotFoundError:
        # The usual reason: Python was started in a source checkout, whose folder hides the installed package.
        raise ImportError(
            f"llmcore's compiled core is not in {__path__[0]}: this looks like a source checkout that was not built. "
            "Start Python in another folder to use the installed package, or run `pip install -e .` here"
        ) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
