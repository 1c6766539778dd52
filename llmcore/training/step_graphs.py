"""Training steps of fixed shapes as CUDA graphs: the kernels of a micro-batch, forward and backward, are recorded once
and then started by a single call.

What changes from step to step stays outside, or is read from the device's memory: the batch is copied into the tensors
that the graph reads, gradients are added up in the optimizer's buffers, and dropout draws the masks of the present step
because kernels shift their offsets (`_core.set_random_shift`). So a replay gives the bits of the same work done kernel
by kernel.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from llmcore import _core
from llmcore.autograd import Generator
from llmcore.models.inputs import DeviceBatch

logger = logging.getLogger("llmcore")

_MOST_GRAPHS = 8  # two for each shape, if gradients are accumulated
_PATIENCE = 64  # micro-batches without a replay until that is said


@dataclasses.dataclass
class _Captured:
    graph: Any
    inputs: dict[str, _core.Tensor]
    loss: _core.Tensor
    step: int  # of the generators when it was recorded
    drawn: list[int]  # by each generator
    stale_afterwards: list[bool]
    kept: list[_core.Tensor]  # what the graph reads and does not own


class StepGraphs:
    """Computes losses and gradients of a model's micro-batches, by graphs where the same work comes again.

    A graph holds for batches of the same shapes and facts (`DeviceBatch`), and for the same state of the model's
    parameters. Work that comes for the second time is recorded; the first time has made what exists once, such as
    tables. What cannot be recorded is done kernel by kernel, and a warning says why.

    Args:
        model: it has `device_batch` and `loss_of`.
        generators: its sources of dropout masks.
    """

    def __init__(self, model: Any, generators: list[Generator]):
        self.model, self.generators = model, generators
        self.parameters = list(model.parameters())
        self.device = self.parameters[0].device
        self.replays = 0
        self._seen: set[Any] = set()
        self._captured: dict[Any, _Captured] = {}
        self._without_replay = 0
        self._off = False

    def loss_and_gradients(self, batch: DeviceBatch) -> _core.Tensor:
        """Adds the gradients of a micro-batch to those that are there; the loss is a scalar on the device."""
        if self._off:
            return self._compute(batch)
        key = self._key(batch)
        if key not in self._captured:
            if key not in self._seen or not self._capture(key, batch):
                self._seen.add(key)
                self._note_miss(batch)
                return self._compute(batch)
        return self._replay(self._captured[key], batch)

    def _compute(self, batch: DeviceBatch) -> _core.Tensor:
        loss = self.model.loss_of(batch)
        loss.backward()
        return loss.data

    def _key(self, batch: DeviceBatch) -> Any:
        state = tuple(
            (p.data.data_ptr, p.requires_grad, p._grad_is_stale, p._grad.data_ptr if p._grad is not None else 0)
            for p in self.parameters
        )
        seeds = tuple(generator.seed for generator in self.generators)
        return batch.key(), state, seeds, getattr(self.model, "activation_checkpointing", False)

    def _capture(self, key: Any, batch: DeviceBatch) -> bool:
        if len(self._captured) >= _MOST_GRAPHS:
            return False
        first = next(iter(self._captured.values()), None)
        stale = [parameter._grad_is_stale for parameter in self.parameters]
        places = [generator.state() for generator in self.generators]
        inputs = {name: tensor.clone() for name, tensor in batch.tensors.items()}
        _core.empty_cache(self.device)  # what steps used so far; the graph has memory of its own
        try:
            graph = _core.CudaGraph(self.device, first.graph if first else None)
            with graph.capture():
                loss = self.model.loss_of(DeviceBatch(inputs, batch.facts))
                loss.backward()
        except (RuntimeError, MemoryError) as error:
            self._off = True
            logger.warning("CUDA graphs are off, training goes on without them: %s", error)
            return False
        finally:
            stale_afterwards = [parameter._grad_is_stale for parameter in self.parameters]
            drawn = [generator.state()["index"] for generator in self.generators]
            for parameter, before in zip(self.parameters, stale, strict=True):
                parameter._grad_is_stale = before  # nothing was computed yet
            for generator, place in zip(self.generators, places, strict=True):
                generator.set_state(place)
        step = self.generators[0].step if self.generators else 0
        self._captured[key] = _Captured(graph, inputs, loss.data, step, drawn, stale_afterwards, self._tensors())
        return True

    def _tensors(self) -> list[_core.Tensor]:
        """Tensors from before that the recorded work names."""
        kept = [tensor for p in self.parameters for tensor in (p.data, p._grad) if tensor is not None]
        for module in self.model.modules():
            for value in vars(module).values():
                if hasattr(value, "tensors"):
                    kept += value.tensors()
        return kept

    def _replay(self, captured: _Captured, batch: DeviceBatch) -> _core.Tensor:
        for name, tensor in captured.inputs.items():
            tensor.copy_(batch.tensors[name])
        draws = any(captured.drawn)
        if draws:
            shift = self.generators[0].offset_of(self.generators[0].step - captured.step)
            _core.set_random_shift(shift, self.device)
        captured.graph.replay()
        if draws:
            _core.set_random_shift(0, self.device)
        for generator, drawn in zip(self.generators, captured.drawn, strict=True):
            generator.set_state({**generator.state(), "index": drawn})
        for parameter, stale in zip(self.parameters, captured.stale_afterwards, strict=True):
            parameter._grad_is_stale = stale
        self.replays += 1
        self._without_replay = 0
        return captured.loss.clone()  # the next replay overwrites it

    def _note_miss(self, batch: DeviceBatch) -> None:
        self._without_replay += 1
        if self._without_replay != _PATIENCE or self._off:
            return
        shapes, facts = batch.key()
        logger.warning(
            "CUDA graphs have nothing to repeat: in %d micro-batches none was like an earlier one (the last: %s; %s), "
            "so kernels are started one by one. Blocks of one length, all of them trained on, are repeated",
            _PATIENCE,
            ", ".join(f"{name} {shape}" for name, shape in shapes),
            ", ".join(f"{name} {value}" for name, value in facts if value is not None),
        )
        self._off = True
