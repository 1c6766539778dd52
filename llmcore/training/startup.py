"""What a person should know before step 1: model, data with a sample, size of an update, memory plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llmcore import _core
from llmcore.labels import IGNORE_INDEX
from llmcore.machine import is_gpu
from llmcore.training.batches import task_of
from llmcore.training.text_examples import TokenizedRows

if TYPE_CHECKING:
    from llmcore.training.trainer import Trainer

_SAMPLE_TOKENS = 48


def startup_report(trainer: Trainer, memory: str | None) -> str:
    """The report as text, a line or two per subject."""
    model = trainer.model
    parameters = sum(parameter.data.numel for parameter in model.parameters())
    trained = sum(parameter.data.numel for parameter in model.parameters() if parameter.requires_grad)
    part = f" ({trained / 1e6:,.2f} M trained)" if trained < parameters else ""
    lines = [
        f"model: {type(model).__name__}, {parameters / 1e6:,.2f} M parameters{part}, {_dtype(model)}, "
        + _where(trainer)
    ]
    masked_lm = task_of(model) == "masked-lm"
    lines += data_report(trainer.train_dataset, trainer.loader, trainer.processing_class, masked_lm)
    lines.append(_updates(trainer))
    if memory:
        lines.append(memory)
    return "\n".join(lines)


def data_report(dataset: Any, loader: Any, tokenizer: Any, masked_lm: bool = False) -> list[str]:
    """Lines about the training data: what the dataset says of itself, or its size; and one decoded sample."""
    report = getattr(dataset, "report", None)
    if report is not None and hasattr(report, "render"):
        return [report.render()]  # with a sample of its own
    elif isinstance(dataset, TokenizedRows):
        lengths = np.array([len(row["input_ids"]) for row in dataset.rows])
        lines = [
            f"data: {len(dataset):,} rows, {lengths.sum():,} tokens, length median {int(np.median(lengths))}, "
            f"longest {lengths.max()}; {dataset.truncated:,} rows cut, {dataset.dropped_tokens:,} tokens dropped"
        ]
    elif hasattr(dataset, "block_size"):
        tokens = len(dataset) * (dataset.block_size - 1)
        lines = [f"data: {len(dataset):,} blocks of {dataset.block_size} tokens, {tokens:,} predictions an epoch"]
    elif hasattr(dataset, "__len__"):
        lines = [f"data: {len(dataset):,} examples"]
    else:
        lines = ["data: an iterable of unknown length"]
    sample = _sample(loader, tokenizer, masked_lm)
    return [*lines, f"sample: {sample}"] if sample else lines


def _sample(loader: Any, tokenizer: Any, masked_lm: bool) -> str | None:
    """The start of one training sequence, decoded; tokens that are not trained on stand in [brackets], but for a masked
    language model, which sees them with its masks."""
    dataset = getattr(loader, "dataset", None)
    if tokenizer is None or not hasattr(dataset, "batch"):
        return None
    batch = dataset.batch(np.zeros(1, np.int64))
    ids = np.asarray(batch["input_ids"])[0, :_SAMPLE_TOKENS]
    labels = np.asarray(batch.get("labels", batch["input_ids"]))
    if labels.ndim != 2 or masked_lm:  # what is trained on behind masks, they show themselves
        return repr(tokenizer.decode(ids.tolist()))
    pieces, masked = [], labels[0, : len(ids)] == IGNORE_INDEX
    start = 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or masked[end] != masked[start]:
            text = tokenizer.decode(ids[start:end].tolist())
            pieces.append(f"[{text}]" if masked[start] else text)
            start = end
    return repr("".join(pieces))


def _updates(trainer: Trainer) -> str:
    state, accumulation = trainer.state, trainer.accumulation
    batch_size = getattr(trainer.loader, "batch_size", None)
    size = f"{batch_size} sequences" if batch_size else "batches as they come"
    if accumulation > 1:
        size += f" x {accumulation} micro-batches"
    text = f"training: {state.max_steps:,} updates of {size}"
    if hasattr(trainer.loader, "__len__"):
        text += f", {state.max_steps / -(-len(trainer.loader) // accumulation):.2f} epochs"
    resumed = f", resuming after update {state.global_step:,}" if state.global_step else ""
    return f"{text}, {trainer.args.optim}, peak learning rate {trainer.args.learning_rate:g}{resumed}"


def _dtype(model: Any) -> str:
    return next(iter(model.parameters())).dtype.name


def _where(trainer: Trainer) -> str:
    """What computes."""
    device = next(iter(trainer.model.parameters())).device
    if is_gpu(device):
        return f"{device} ({_core.device_facts(device)['name']})"
    return f"{_core.cpu_isa()} with {_core.num_threads()} threads"
