"""Optimizers over flat buffers.

The parameters of one dtype and one decay rule lie end to end in a single buffer, and so do their gradients and
moments: an update is one kernel call per buffer. `parameter.data` and `parameter.grad` become views of the buffers.
bfloat16 parameters have a float32 master copy; the kernel updates that and rounds. With `stochastic_rounding` they have
none, and an update smaller than their rounding is made in the mean.

State is saved by parameter name, never by position, so it survives a model whose parameters are listed in another
order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcore import _core
from llmcore.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from llmcore.autograd import Tensor
    from llmcore.training.arguments import TrainingArguments

# Each parameter starts at a multiple of a cache line, so that kernels on the views see aligned rows.
_ALIGNMENT = 16
_EMBEDDING_NAMES = ("wte", "wpe", "embed")


def has_weight_decay(name: str, parameter: Tensor) -> bool:
    """Whether weight decay belongs on a parameter: not on norms and biases (vectors), not on embeddings."""
    if len(parameter.shape) < 2:
        return False
    return not any(part in piece for piece in name.lower().split(".") for part in _EMBEDDING_NAMES)


@dataclasses.dataclass
class FlatGroup:
    """Parameters that are updated by one kernel call. `offsets` and sizes count elements."""

    weight_decay: float
    names: list[str]
    parameters: list[Tensor]
    offsets: list[int]
    data: _core.Tensor  # (N,) in the parameters' dtype
    grads: _core.Tensor  # (N,) float32
    master: _core.Tensor | None  # (N,) float32, only beside bfloat16 parameters
    rounding_seed: int | None  # of bfloat16 parameters without a master: they are rounded stochastically
    state: dict[str, _core.Tensor]  # name -> (N,) float32

    def view(self, buffer: _core.Tensor, index: int) -> _core.Tensor:
        """Parameter `index`'s part of a buffer, in its shape."""
        parameter = self.parameters[index]
        return buffer.narrow(self.offsets[index], parameter.data.numel).view(parameter.shape)


class Optimizer:
    """Base of the optimizers: flat buffers, gradient norm, state. Subclasses name their state and make the update.

    Args:
        parameters: a model, or pairs of name and parameter. Those that need no gradient are left alone; one that
        appears under
            two names (tied weights) is taken once.
        learning_rate: used where `step` is given none.
        weight_decay: applied where `decays(name, parameter)` is true.
        dtype: the parameters are converted to it; None keeps theirs.
        stochastic_rounding: bfloat16 parameters are updated themselves, without a float32 master copy: 4 bytes less
            for each. An update is rounded up or down by chance, with the probabilities that make its mean exact
            (Gupta et al. 2015, arXiv:1502.02551), so that updates below the distance of two bfloat16 numbers are not
            lost; rounding to nearest would lose them. It adds noise: a master copy learns better. Nothing changes
            for float32 parameters.
        seed: of the chance. The same seed, step and element give the same rounding on every device.
    """

    state_names: tuple[str, ...] = ()

    def __init__(
        self,
        parameters: Any,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        decays: Callable[[str, Tensor], bool] = has_weight_decay,
        dtype: _core.DType | None = None,
        stochastic_rounding: bool = False,
        seed: int = 0,
    ) -> None:
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.stochastic_rounding, self.seed = stochastic_rounding, seed
        self.steps = 0
        pairs = parameters.named_parameters() if hasattr(parameters, "named_parameters") else parameters
        self.groups = self._flatten(_unique(pairs), decays, dtype)

    def _flatten(
        self, pairs: list[tuple[str, Tensor]], decays: Callable[[str, Tensor], bool], dtype: _core.DType | None
    ) -> list[FlatGroup]:
        members: dict[tuple[str, bool], list[tuple[str, Tensor]]] = {}
        for name, parameter in pairs:
            target = parameter.dtype if dtype is None else dtype
            if parameter.requires_grad:
                members.setdefault((target.name, bool(decays(name, parameter))), []).append((name, parameter))
            elif parameter.dtype != target:
                parameter.data = parameter.data.cast(target)
        if not members:
            raise ConfigError("the optimizer got no parameter that needs a gradient")
        groups = [
            self._gather(group, getattr(_core.DType, target), decay) for (target, decay), group in members.items()
        ]
        # The parameters' old memory is given back before as much and more is taken: the peak is that of the training.
        _core.empty_cache(groups[0].data.device)
        for index, group in enumerate(groups):
            if self.stochastic_rounding and group.data.dtype == _core.DType.bfloat16:
                group.rounding_seed = self.seed + index  # elements are counted in each group anew
            self._add_buffers(group)
        return groups

    def _gather(self, pairs: list[tuple[str, Tensor]], dtype: _core.DType, decay: bool) -> FlatGroup:
        """Moves the parameters into one buffer of `dtype`, one by one."""
        offsets, end = [], 0
        for _, parameter in pairs:
            offsets.append(end)
            end += -(-parameter.data.numel // _ALIGNMENT) * _ALIGNMENT
        device = pairs[0][1].device
        none = _core.empty((0,), _core.DType.float32, device)
        group = FlatGroup(
            weight_decay=self.weight_decay if decay else 0.0,
            names=[name for name, _ in pairs],
            parameters=[parameter for _, parameter in pairs],
            offsets=offsets,
            data=_core.zeros((end,), dtype, device),  # zeros: the gaps between parameters must stay finite
            grads=none,
            master=None,
            rounding_seed=None,
            state={},
        )
        for index, parameter in enumerate(group.parameters):
            view = group.view(group.data, index)
            view.copy_(parameter.data)
            parameter.data = view
        return group

    def _add_buffers(self, group: FlatGroup) -> None:
        """Gradients, state and master weights."""
        shape, device = group.data.shape, group.data.device
        group.grads = _core.zeros(shape, _core.DType.float32, device)
        group.state = {name: _core.zeros(shape, _core.DType.float32, device) for name in self.state_names}
        if group.data.dtype != _core.DType.float32 and group.rounding_seed is None:
            group.master = group.data.cast(_core.DType.float32)
            group.master.label("master weights")
        group.data.label("weights")
        group.grads.label("gradients")
        for state in group.state.values():
            state.label("optimizer state")
        _attach(group)

    def zero_grad(self) -> None:
        """Sets every gradient to zero; the buffers stay, and are written when the next gradient comes."""
        for group in self.groups:
            for parameter in group.parameters:
                parameter.forget_grad()

    def grad_norm(self) -> _core.Tensor:
        """Euclidean norm of all gradients together, (1,) float32 on the device."""
        self.attach()
        return _core.global_norm([group.grads for group in self.groups])

    def step(self, learning_rate: float | None = None, grad_scale: _core.Tensor | None = None) -> None:
        """Makes one update.

        `learning_rate` replaces the one of the constructor, `grad_scale` (1,) float32 is multiplied into the
        gradients by the kernel (the clip factor: it never has to leave the device).
        """
        self.attach()
        self.steps += 1
        rate = self.learning_rate if learning_rate is None else learning_rate
        for group in self.groups:
            self._update(group, rate, grad_scale)

    def _update(self, group: FlatGroup, learning_rate: float, grad_scale: _core.Tensor | None) -> None:
        raise NotImplementedError

    def attach(self) -> None:
        """Takes over parameters and gradients that were replaced since (by `load_state_dict` or `zero_grad` of a
        module).
        """
        for group in self.groups:
            _attach(group)

    def refresh_masters(self) -> None:
        """Makes the master copies equal to the parameters again, after weights were loaded without optimizer state."""
        self.attach()
        for group in self.groups:
            if group.master is not None:
                group.master.copy_(group.data)

    def state_dict(self, copy: bool = True) -> dict[str, np.ndarray]:
        """Moments and master weights as float32 arrays called `<parameter>.<state>`.

        `copy=False` gives views where possible, good until the next update.
        """
        arrays = {}
        for group in self.groups:
            for kind, buffer in _buffers(group):
                flat = buffer.numpy()
                for name, parameter, offset in zip(group.names, group.parameters, group.offsets, strict=True):
                    array = flat[offset : offset + parameter.data.numel].reshape(parameter.shape)
                    arrays[f"{name}.{kind}"] = array.copy() if copy else array
        return arrays

    def load_state_dict(self, arrays: dict[str, np.ndarray], steps: int) -> None:
        """Restores what `state_dict` gave; `steps` is the number of updates made.

        Raises CheckpointError if an array is missing, left over or of another shape. The parameters themselves must
        be loaded before: master weights that are not in `arrays` are made from them.
        """
        self.attach()
        unused = set(arrays)
        for group in self.groups:
            for kind, buffer in _buffers(group):
                for index, name in enumerate(group.names):
                    key = f"{name}.{kind}"
                    view = group.view(buffer, index)
                    if kind == "master" and key not in arrays:
                        view.copy_(group.parameters[index].data)
                        continue
                    if key not in arrays:
                        raise CheckpointError(
                            f"the optimizer state lacks {key!r}: it was saved by another optimizer or for another model"
                        )
                    array = np.asarray(arrays[key])
                    if array.shape != tuple(view.shape):
                        raise CheckpointError(
                            f"the optimizer state {key!r} has shape {array.shape}, expected {view.shape}"
                        )
                    view.copy_(_core.from_numpy(array))
                    unused.discard(key)
            if (
                group.data.dtype == _core.DType.float32
            ):  # such parameters are their own masters: those of a bfloat16 run are finer
                for index, name in enumerate(group.names):
                    if f"{name}.master" in arrays:
                        group.view(group.data, index).copy_(_core.from_numpy(np.asarray(arrays[f"{name}.master"])))
                        unused.discard(f"{name}.master")
        if unused:
            raise CheckpointError(f"the optimizer state {sorted(unused)[0]!r} belongs to no parameter of this model")
        self.steps = steps


def _unique(pairs: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    seen: set[int] = set()
    unique = []
    for name, parameter in pairs:
        if id(parameter) not in seen:
            seen.add(id(parameter))
            unique.append((name, parameter))
    return unique


def _attach(group: FlatGroup) -> None:
    element = group.data.nbytes // group.data.numel
    for index, (parameter, offset) in enumerate(zip(group.parameters, group.offsets, strict=True)):
        if parameter.data.data_ptr != group.data.data_ptr + offset * element:
            view = group.view(group.data, index)
            view.copy_(parameter.data)
            parameter.data = view
            if group.master is not None:
                group.view(group.master, index).copy_(view)
        gradient = parameter.grad
        if gradient is None or gradient.data_ptr != group.grads.data_ptr + offset * 4:
            view = group.view(group.grads, index)
            if gradient is None:
                view.fill_(0.0)
            else:
                view.copy_(gradient)
            parameter.grad = view


def _buffers(group: FlatGroup) -> list[tuple[str, _core.Tensor]]:
    master = [("master", group.master)] if group.master is not None else []
    return [*group.state.items(), *master]


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    state_names = ("exp_avg", "exp_avg_sq")
    _adam_l2 = False

    def __init__(
        self,
        parameters: Any,
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
        **options: Any,
    ) -> None:
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        super().__init__(parameters, learning_rate, weight_decay, **options)

    def _update(self, group: FlatGroup, learning_rate: float, grad_scale: _core.Tensor | None) -> None:
        _core.adamw_step(
            group.data,
            group.master,
            group.grads,
            group.state["exp_avg"],
            group.state["exp_avg_sq"],
            learning_rate,
            self.beta1,
            self.beta2,
            self.epsilon,
            group.weight_decay,
            self.steps,
            grad_scale,
            self._adam_l2,
            group.rounding_seed,
        )


class Adam(AdamW):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980); weight decay, if any, is added to the gradient."""

    _adam_l2 = True

    def __init__(self, parameters: Any, learning_rate: float = 1e-3, weight_decay: float = 0.0, **options: Any) -> None:
        super().__init__(parameters, learning_rate, weight_decay=weight_decay, **options)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, PyTorch's formulas."""

    def __init__(
        self,
        parameters: Any,
        learning_rate: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ConfigError("nesterov=True needs a momentum above 0 and no dampening")
        self.momentum, self.dampening, self.nesterov = momentum, dampening, nesterov
        self.state_names = ("momentum_buffer",) if momentum else ()
        super().__init__(parameters, learning_rate, weight_decay, **options)

    def _update(self, group: FlatGroup, learning_rate: float, grad_scale: _core.Tensor | None) -> None:
        _core.sgd_step(
            group.data,
            group.master,
            group.grads,
            group.state.get("momentum_buffer"),
            learning_rate,
            self.momentum,
            self.dampening,
            self.nesterov,
            group.weight_decay,
            self.steps,
            grad_scale,
            group.rounding_seed,
        )


class RMSprop(Optimizer):
    """Gradient divided by a running root mean square (Tieleman and Hinton 2012), PyTorch's formulas."""

    def __init__(
        self,
        parameters: Any,
        learning_rate: float = 1e-2,
        alpha: float = 0.99,
        epsilon: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        self.alpha, self.epsilon, self.momentum = alpha, epsilon, momentum
        self.state_names = ("square_avg", "momentum_buffer") if momentum else ("square_avg",)
        super().__init__(parameters, learning_rate, weight_decay, **options)

    def _update(self, group: FlatGroup, learning_rate: float, grad_scale: _core.Tensor | None) -> None:
        _core.rmsprop_step(
            group.data,
            group.master,
            group.grads,
            group.state["square_avg"],
            group.state.get("momentum_buffer"),
            learning_rate,
            self.alpha,
            self.epsilon,
            self.momentum,
            group.weight_decay,
            self.steps,
            grad_scale,
            group.rounding_seed,
        )


# name -> (class, settings that `optim_args` may give)
OPTIMIZERS: dict[str, tuple[type[Optimizer], tuple[str, ...]]] = {
    "adamw": (AdamW, ("stochastic_rounding",)),
    "adam": (Adam, ("stochastic_rounding",)),
    "sgd": (SGD, ("momentum", "dampening", "nesterov", "stochastic_rounding")),
    "rmsprop": (RMSprop, ("alpha", "momentum", "stochastic_rounding")),
}
_SWITCHES = ("nesterov", "stochastic_rounding")


def create_optimizer(model: Any, args: TrainingArguments, dtype: _core.DType | None = None) -> Optimizer:
    """The optimizer that `args.optim` names, over the parameters of `model`. Raises ConfigError for unknown
    `optim_args`.
    """
    optimizer, allowed = OPTIMIZERS[args.optim]
    options: dict[str, Any] = {"learning_rate": args.learning_rate, "weight_decay": args.weight_decay, "dtype": dtype}
    options["seed"] = args.seed
    if issubclass(optimizer, AdamW):
        options |= {"beta1": args.adam_beta1, "beta2": args.adam_beta2, "epsilon": args.adam_epsilon}
    if optimizer is RMSprop:
        options["epsilon"] = args.adam_epsilon
    for item in filter(None, (args.optim_args or "").replace(" ", "").split(",")):
        name, _, value = item.partition("=")
        if name not in allowed:
            known = ", ".join(allowed)
            if issubclass(optimizer, AdamW):
                known += "; adam_beta1, adam_beta2 and adam_epsilon are settings of their own"
            raise ConfigError(f"optim_args: {args.optim} takes {known}, got {item!r}")
        try:
            options[name] = value.lower() == "true" if name in _SWITCHES else float(value)
        except ValueError:
            raise ConfigError(f"optim_args: {name} must be a number, got {value!r}") from None
    return optimizer(model, **options)
