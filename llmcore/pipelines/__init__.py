"""`pipeline(task, model)`: text in, plain Python values out, in transformers' shapes."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from llmcore.errors import ConfigError
from llmcore.pipelines.base import Pipeline

# task -> (module in llmcore.pipelines, class, auto class of its model)
TASKS: dict[str, tuple[str, str, str]] = {
    "text-generation": ("language", "TextGenerationPipeline", "AutoModelForCausalLM"),
    "fill-mask": ("language", "FillMaskPipeline", "AutoModelForMaskedLM"),
    "feature-extraction": ("language", "FeatureExtractionPipeline", "AutoModel"),
    "text-classification": (
        *("classification", "TextClassificationPipeline"),
        "AutoModelForSequenceClassification",
    ),
    "token-classification": ("classification", "TokenClassificationPipeline", "AutoModelForTokenClassification"),
}
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}

# ends of class names -> task, for a model whose task is not given
_TASK_OF = {
    ("ForCausalLM", "LMHeadModel"): "text-generation",
    ("ForMaskedLM",): "fill-mask",
    ("ForSequenceClassification",): "text-classification",
    ("ForTokenClassification",): "token-classification",
}


def pipeline(
    task: str | None = None,
    model: Any = None,
    tokenizer: Any = None,
    *,
    device: str | int | None = None,
    batch_size: int = 8,
    **settings: Any,
) -> Pipeline:
    """A function from text to results.

    Args:
        task: text-generation, text-classification (or sentiment-analysis), fill-mask, feature-extraction or
            token-classification (or ner); None takes the one that the model's head is for.
        model: a model, or the folder of one.
        tokenizer: a tokenizer, or the folder of one; None takes the model's.
        device: "auto" (the default: a GPU where there is one), "cpu", "cuda"; or the number of a GPU, -1 for the CPU. A
            model that is given stays where it is, unless this says otherwise.
        batch_size: texts at once.
        settings: defaults for the calls, such as top_k or max_new_tokens.

    Raises ConfigError for an unknown task, a model without the head that the task needs, or a missing tokenizer.
    """
    import importlib

    import llmcore
    from llmcore.machine import find_device
    from llmcore.models.auto import load_model

    if model is None and task is not None and Path(task).is_dir():
        raise ConfigError(
            f"{task!r} is a folder, the first argument is the task: pipeline('text-generation', {task!r})"
        )
    if model is None:
        raise ConfigError("pipeline needs a model: a folder or a model; nothing is downloaded")
    place = find_device(_device_name(device))
    if device is not None and hasattr(model, "to"):
        model.to(place)
    if task is None:
        model = load_model(model, device=place) if isinstance(model, (str, Path)) else model
        ends = next((ends for ends in _TASK_OF if type(model).__name__.endswith(ends)), None)
        task = "feature-extraction" if ends is None else _TASK_OF[ends]
    name = ALIASES.get(task, task)
    if name not in TASKS:
        close = difflib.get_close_matches(task, [*TASKS, *ALIASES], n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join([*TASKS, *ALIASES])}."
        raise ConfigError(f"there is no task {task!r}; {hint}")
    module, class_name, auto = TASKS[name]
    if isinstance(model, (str, Path)):
        model = getattr(llmcore, auto).from_pretrained(model, device=place)
    if isinstance(tokenizer, (str, Path)):
        tokenizer = llmcore.AutoTokenizer.from_pretrained(tokenizer)
    chosen = getattr(importlib.import_module(f"llmcore.pipelines.{module}"), class_name)
    return chosen(model, tokenizer, name, batch_size, settings)


def _device_name(device: str | int | None) -> str:
    if isinstance(device, int):
        return "cpu" if device < 0 else f"cuda:{device}"
    return device or "auto"
