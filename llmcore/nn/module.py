"""Module: a tree of parameters with names."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from llmcore import _core
from llmcore.autograd import Tensor

ModuleType = TypeVar("ModuleType", bound="Module")


class Parameter(Tensor):
    """A tensor that is trained. Its gradient is float32 whatever its own type."""

    __slots__ = ()

    def __init__(self, data: _core.Tensor):
        super().__init__(data, requires_grad=True)


class Module:
    """A part of a model. Parameters and parts are its attributes (lists of parts included); their names are the
    path."""

    training: bool = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def children(self) -> Iterator[tuple[str, Module]]:
        """Direct parts with their names; `h.0`, `h.1` for the parts in a list `h`."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list):
                for index, part in enumerate(value):
                    if isinstance(part, Module):
                        yield f"{name}.{index}", part

    def modules(self) -> Iterator[Module]:
        yield self
        for _, part in self.children():
            yield from part.modules()

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, in the order in which it was defined; a tied one under its first name."""
        seen: set[int] = set()
        for name, parameter in self._walk(""):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def _walk(self, prefix: str) -> Iterator[tuple[str, Parameter]]:
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
        for name, part in self.children():
            yield from part._walk(f"{prefix}{name}.")

    def parameters(self) -> Iterator[Parameter]:
        for _, parameter in self.named_parameters():
            yield parameter

    def num_parameters(self) -> int:
        return sum(parameter.data.numel for parameter in self.parameters())

    def train(self, mode: bool = True) -> Module:
        """Switches dropout on (or off) in this module and all of its parts."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        return self.train(False)

    def to(self: ModuleType, device: str) -> ModuleType:
        """Moves the parameters, with their gradients, and what else the parts hold as tensors. Returns the module."""
        moved: set[int] = set()
        for module in self.modules():
            for name, value in vars(module).items():
                if isinstance(value, _core.Tensor):
                    setattr(module, name, value.to(device))
                elif isinstance(value, Tensor) and id(value) not in moved:
                    moved.add(id(value))
                    gradient = value.grad
                    value.data = value.data.to(device)
                    value.grad = None if gradient is None else gradient.to(device)
        return self

    def zero_grad(self) -> None:
        for parameter in self.parameters():
            parameter.forget_grad()

    def state_dict(self) -> dict[str, _core.Tensor]:
        """The parameters' tensors by name: not copies."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, _core.Tensor | np.ndarray]) -> None:
        """Copies values into the parameters, converting their type.

        All names and shapes are checked before anything is written. Raises KeyError for a missing or unknown name
        (with the nearest known one), ValueError for a wrong shape.
        """
        own = self.state_dict()
        missing = [name for name in own if name not in state]
        if missing:
            raise KeyError(f"load_state_dict: {missing[0]!r} is missing ({len(missing)} of {len(own)} parameters are)")
        for name, value in state.items():
            if name not in own:
                near = difflib.get_close_matches(name, own, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise KeyError(f"load_state_dict: the model has no parameter {name!r}{hint}")
            if tuple(value.shape) != own[name].shape:
                raise ValueError(f"load_state_dict: {name} must have shape {own[name].shape}, got {tuple(value.shape)}")
        for name, value in state.items():
            own[name].copy_(value if isinstance(value, _core.Tensor) else _core.from_numpy(value))
