"""One update: loss and gradients of its micro-batches, clipping, the optimizer, and what happens if something is not
finite.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from llmcore import _core, functional
from llmcore.autograd import Tensor
from llmcore.errors import ConfigError
from llmcore.labels import IGNORE_INDEX
from llmcore.machine import is_gpu
from llmcore.training.batches import count_input_tokens, count_trained_tokens
from llmcore.training.outputs import NonFiniteError, StepResult
from llmcore.training.run_state import generators
from llmcore.training.step_graphs import StepGraphs
from llmcore.training.trainer_setup import TrainerSetup

logger = logging.getLogger("llmcore")


@dataclasses.dataclass
class _Pending:
    """The update that is being put together."""

    losses: list[_core.Tensor] = dataclasses.field(default_factory=list)  # of the micro-batches, on the device
    micro_batches: int = 0
    items: int = 0  # trained tokens
    unscaled: bool = False  # losses are sums, and gradients still have to be divided by `items`
    input_tokens: int = 0
    samples: int = 0
    started: float = 0.0


class TrainerStep(TrainerSetup):
    """`training_step` adds up gradients, `optimizer_step` makes the update."""

    _pending: _Pending | None = None
    _graphs: StepGraphs | None = None
    _graphs_of: Any = None  # the optimizer for whose buffers
    _window_tokens: int = 0  # since the last log entry
    _window_seconds: float = 0.0

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> Any:
        """The loss of a micro-batch as a scalar tensor; override it for another objective.

        `num_items_in_batch` is the number of trained tokens of the whole update: the loss is the sum over the tokens
        of this micro-batch, divided by it. Without it the loss is the mean over this micro-batch.
        """
        accepted = {name: value for name, value in inputs.items() if name in self._model_takes}
        labels = inputs.get(self._label_name)
        if labels is None and self.compute_loss_func is None:
            raise ConfigError(
                f"the batch has no {self._label_name!r}, only {', '.join(inputs)}; for a language model use "
                "data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False)"
            )
        if self.compute_loss_func is not None:
            outputs = model(**{name: value for name, value in accepted.items() if name != "labels"})
            loss = self.compute_loss_func(outputs, labels, num_items_in_batch=num_items_in_batch)
        elif self.args.label_smoothing_factor and "label_smoothing" not in self._model_takes:
            outputs, loss = self._smoothed_loss(model, accepted, labels, num_items_in_batch)
        else:
            if "num_items_in_batch" in self._model_takes and num_items_in_batch is not None:
                accepted["num_items_in_batch"] = num_items_in_batch
            if self.args.label_smoothing_factor:
                accepted["label_smoothing"] = self.args.label_smoothing_factor
            outputs = model(**accepted)
            loss = outputs.loss
            if num_items_in_batch is not None and "num_items_in_batch" not in self._model_takes:
                loss = loss * (count_trained_tokens(labels, self._shifted) / num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _has_own_objective(self) -> bool:
        """Whether the loss is another one than the model's, by function or by subclass."""
        return self.compute_loss_func is not None or type(self).compute_loss is not TrainerStep.compute_loss

    def _smoothed_loss(
        self, model: Any, inputs: dict[str, Any], labels: Any, num_items: int | None
    ) -> tuple[Any, Tensor]:
        if np.asarray(labels).dtype.kind not in "iu" or getattr(model.config, "num_labels", None) == 1:
            raise ConfigError("label_smoothing_factor is for classes; the labels of this batch are numbers to predict")
        # for a model that cannot smooth by itself: its logits exist as a whole
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**inputs)
        targets = np.array(labels, np.int32)
        if self._shifted:
            targets[:, :-1] = targets[:, 1:]
            targets[:, -1] = IGNORE_INDEX
        logits = functional.view(outputs.logits, (-1, outputs.logits.shape[-1]))  # (N, V)
        loss = functional.cross_entropy(
            logits,
            _core.from_numpy(targets.reshape(-1), device=logits.device),
            ignore_index=IGNORE_INDEX,
            label_smoothing=self.args.label_smoothing_factor,
            num_items=num_items,
        )
        return outputs, loss

    def training_step(self, batch: Mapping[str, Any], num_items_in_batch: int | None = None) -> float:
        """Forward and backward pass of one micro-batch; its gradients are added to those that are there.

        `num_items_in_batch` is the number of trained tokens of the whole update. A host that does not know it yet
        leaves it out: the division is then made by `optimizer_step`, so the update is exact either way. Returns the
        loss: this micro-batch's part of the update's mean, or, if the number was left out, its own mean.
        """
        items = self._count_items(batch)
        value = self._add_gradients(batch, items, num_items_in_batch).item()
        assert self._pending is not None
        return value / max(1, items) if self._pending.unscaled else value

    def _add_gradients(self, batch: Mapping[str, Any], items: int, num_items_in_batch: int | None) -> _core.Tensor:
        """`training_step`, without waiting for the loss: a scalar on the device."""
        if self.optimizer is None:
            self.prepare()
        if self._graphs_of is not self.optimizer:  # made anew with it
            self._graphs, self._graphs_of = self._make_graphs(), self.optimizer
        if self._pending is None:
            self._pending = _Pending(unscaled=num_items_in_batch is None, started=time.monotonic())
            self.optimizer.zero_grad()
        pending = self._pending
        for generator in generators(self.model):
            # a function of the place in the run alone, so a resumed run draws the same masks
            generator.step = self.state.global_step * self.accumulation + pending.micro_batches
        self.model.train()
        loss = self._forward_backward(batch, 1 if pending.unscaled else num_items_in_batch)
        pending.losses.append(loss)
        pending.items += items
        pending.micro_batches += 1
        pending.input_tokens += count_input_tokens(batch, self.args.include_num_input_tokens_seen)
        pending.samples += len(next(iter(batch.values())))
        return loss

    def _forward_backward(self, batch: Mapping[str, Any], num_items_in_batch: int | None) -> _core.Tensor:
        if self._graphs is not None and batch.get("labels") is not None:
            inputs = {name: value for name, value in batch.items() if name in self._model_takes}
            if self.args.label_smoothing_factor:
                inputs["label_smoothing"] = self.args.label_smoothing_factor
            prepared = self.model.device_batch(**inputs, num_items_in_batch=num_items_in_batch)
            if prepared is not None:
                return self._graphs.loss_and_gradients(prepared)
        loss = self.compute_loss(self.model, batch, num_items_in_batch=num_items_in_batch)
        loss.backward()
        return loss.data

    def _make_graphs(self) -> StepGraphs | None:
        """What repeats steps as CUDA graphs, where that is wanted and possible; a warning says why it is not."""
        if not self.args.cuda_graphs or not is_gpu(self._device()):
            return None
        if self._has_own_objective():
            why = "the loss is not the model's own, and what it does on the host could not be repeated"
        elif not hasattr(self.model, "device_batch"):
            why = f"a batch of {type(self.model).__name__} needs the host in the middle of a step"
        else:
            return StepGraphs(self.model, generators(self.model))
        logger.warning("without CUDA graphs: %s", why)
        return None

    def _count_items(self, batch: Mapping[str, Any]) -> int:
        """Trained tokens of a micro-batch; its rows where there are no labels."""
        labels = batch.get(self._label_name)
        return len(next(iter(batch.values()))) if labels is None else count_trained_tokens(labels, self._shifted)

    def _apply_update(self) -> StepResult:
        """Clips and applies the gradients of the micro-batches since the last update, unless loss or norm are not
        finite.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            raise ConfigError("optimizer_step: there are no gradients; call training_step(batch) before it")
        scale = 1.0 / max(1, pending.items) if pending.unscaled else 1.0
        rate = self.args.learning_rate * self.lr_scheduler(self.state.global_step)
        norm = self.optimizer.grad_norm()  # (1,) on the device
        *losses, grad_norm = _read([*pending.losses, norm])  # here the host waits for a GPU, once in an update
        loss, grad_norm = sum(losses) * scale, grad_norm * scale
        self._call("on_pre_optimizer_step")
        applied = math.isfinite(loss) and math.isfinite(grad_norm) and pending.items > 0
        if applied:
            self.optimizer.step(rate, self._grad_scale(norm, grad_norm, scale))
            self._call("on_optimizer_step")
        self.optimizer.zero_grad()
        return self._finish_update(pending, loss, grad_norm, rate, applied)

    def _grad_scale(self, norm: _core.Tensor, grad_norm: float, scale: float) -> _core.Tensor | None:
        limit = self.args.max_grad_norm
        if scale == 1.0:
            return _core.clip_factor(norm, limit) if limit > 0 else None
        factor = min(1.0, limit / (grad_norm + 1e-6)) if limit > 0 else 1.0
        return _core.from_numpy(np.array([factor * scale], np.float32), device=norm.device)

    def _finish_update(
        self, pending: _Pending, loss: float, grad_norm: float, rate: float, applied: bool
    ) -> StepResult:
        counters, state = self.counters, self.state
        state.global_step += 1
        seconds = max(time.monotonic() - pending.started, 1e-9)
        counters.input_tokens += pending.input_tokens
        counters.samples += pending.samples
        state.num_input_tokens_seen = counters.input_tokens
        counters.grad_norm, counters.learning_rate = grad_norm, rate
        self._window_tokens += pending.input_tokens
        self._window_seconds += seconds
        if applied:
            counters.loss_sum += loss
            counters.skipped_in_a_row = 0
        else:
            counters.skipped_updates += 1
            # a batch without trained tokens is no sign of numbers that explode
            counters.skipped_in_a_row += int(pending.items > 0)
            found = f"loss {loss}, gradient norm {grad_norm}" if pending.items else "every label is -100"
            logger.warning("step %d: %s: the update is skipped", state.global_step, found)
        if math.isfinite(loss) or not self.args.logging_nan_inf_filter:
            counters.window_loss += loss
            counters.window_steps += 1
        return StepResult(
            global_step=state.global_step,
            epoch=state.epoch,
            loss=loss,
            grad_norm=grad_norm,
            learning_rate=rate,
            tokens=pending.input_tokens,
            tokens_per_second=pending.input_tokens / seconds,
            skipped=not applied,
        )

    def _check_finite(self, result: StepResult) -> None:
        """Raises NonFiniteError once too many updates in a row were skipped."""
        if self.counters.skipped_in_a_row >= self.args.max_nonfinite_steps:
            raise NonFiniteError(
                f"training stopped at step {result.global_step}: loss ({result.loss}) or gradient norm "
                f"({result.grad_norm}) was not finite for {self.counters.skipped_in_a_row} updates in a row; none of "
                "them was applied. Lower the learning rate, lower max_grad_norm, or look at the data of these steps",
                step=result.global_step,
                loss=result.loss,
                grad_norm=result.grad_norm,
            )


def _read(scalars: list[_core.Tensor]) -> list[float]:
    """The values of scalars of one device, fetched together."""
    flat = [scalar.cast(_core.DType.float32).view((1,)) for scalar in scalars]
    return _core.concat(flat, 0).numpy().tolist()
