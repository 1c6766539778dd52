"""Reverse-mode differentiation on a tape of nodes.

A `Tensor` is a `_core.Tensor` plus the node that made it; a `Function` is a forward/backward pair. Nodes point from
outputs to inputs only, so they are freed by reference count, and each frees what it saved as soon as it has run. First
order only.

Gradients of parameters are accumulated in float32 by the kernels themselves (`ctx.grad_buffer`); gradients of
activations have the activation's type and are written, and added only where an activation is used more than once.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from llmcore import _core

_state = threading.local()
_orders = itertools.count(1)  # one for all threads: parts of a graph may be built in several


def is_grad_enabled() -> bool:
    return getattr(_state, "grad_enabled", True)


@contextlib.contextmanager
def _grad_mode(enabled: bool) -> Iterator[None]:
    before = is_grad_enabled()
    _state.grad_enabled = enabled
    try:
        yield
    finally:
        _state.grad_enabled = before


def no_grad() -> contextlib.AbstractContextManager[None]:
    """Inside `with no_grad():` (this thread only) nothing is recorded."""
    return _grad_mode(False)


class Tensor:
    """An array of numbers that remembers how it was computed.

    `data` is the `_core.Tensor`; `grad`, after `backward()`, its gradient as a float32 `_core.Tensor` (leaves only).
    """

    __slots__ = ("data", "requires_grad", "_grad", "_grad_is_stale", "_node", "_index", "__weakref__")

    def __init__(self, data: _core.Tensor, requires_grad: bool = False):
        self.data = data
        self.requires_grad = requires_grad
        self._grad: _core.Tensor | None = None
        self._grad_is_stale = False
        self._node: Node | None = None
        self._index = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> _core.DType:
        return self.data.dtype

    @property
    def device(self) -> str:
        return self.data.device

    @property
    def is_leaf(self) -> bool:
        return self._node is None

    def numpy(self) -> np.ndarray:
        """A view for float32 and int32, a float32 copy for bfloat16."""
        return self.data.numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        return array if dtype is None and not copy else array.astype(dtype or array.dtype)

    def item(self) -> float:
        return self.data.item()

    def __dlpack__(self, **options: Any) -> Any:
        """The numbers for another library, without a copy: `torch.from_dlpack(x)`, `np.from_dlpack(x)`.

        On CUDA the consumer's stream (`stream`, as DLPack numbers them) waits for what was computed so far. What the
        consumer writes is seen here, and the other way round; the tape knows nothing of it.
        """
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3; on CUDA and not for bfloat16, which it has no name for: there AttributeError."""
        return self.data.__cuda_array_interface__

    def argmax(self, axis: int | None = None) -> Any:
        """Where the largest value stands: a NumPy integer, or an array of them along `axis`."""
        return self.numpy().argmax(axis=axis)

    def detach(self) -> Tensor:
        return Tensor(self.data)

    def backward(self, gradient: _core.Tensor | None = None) -> None:
        """Adds the gradient of this tensor into `grad` of every leaf that it depends on.

        `gradient` has this tensor's shape and dtype; it may be left out for a scalar, where it is 1.
        Raises ValueError if it is needed and missing, RuntimeError if nothing was recorded or it was run before.
        """
        backward(self, gradient)

    @property
    def grad(self) -> _core.Tensor | None:
        """The gradient so far; zeros after `forget_grad`."""
        if self._grad_is_stale:
            assert self._grad is not None
            self._grad.fill_(0.0)
            self._grad_is_stale = False
        return self._grad

    @grad.setter
    def grad(self, value: _core.Tensor | None) -> None:
        self._grad, self._grad_is_stale = value, False

    def forget_grad(self) -> None:
        """Makes `grad` zero without touching the memory: the next gradient overwrites it, where its kernel can."""
        self._grad_is_stale = self._grad is not None

    def grad_as_buffer(self) -> _core.Tensor:
        """`grad`, made of zeros first if there is none yet."""
        if self._grad is None:
            self.grad = _core.zeros(self.shape, _core.DType.float32, self.device)
        gradient = self.grad
        assert gradient is not None
        return gradient

    def grad_to_write(self) -> tuple[_core.Tensor, bool]:
        """`grad` for a kernel that can overwrite, and whether it has to add: False means that the present content is
        of no use. The caller promises to run that kernel.
        """
        if self._grad is None:
            self.grad = _core.empty(self.shape, _core.DType.float32, self.device)
            self._grad_is_stale = True
        add, self._grad_is_stale = not self._grad_is_stale, False
        assert self._grad is not None
        return self._grad, add

    def __repr__(self) -> str:
        return f"Tensor({self.numpy()!r}, dtype={self.dtype.name}, requires_grad={self.requires_grad})"

    def __add__(self, other: Tensor | float) -> Tensor:
        from llmcore import functional

        return functional.add(self, other)

    def __sub__(self, other: Tensor | float) -> Tensor:
        from llmcore import functional

        return functional.sub(self, other)

    def __mul__(self, other: Tensor | float) -> Tensor:
        from llmcore import functional

        return functional.mul(self, other) if isinstance(other, Tensor) else functional.scale(self, other)

    def __rsub__(self, other: float) -> Tensor:
        from llmcore import functional

        return functional.scale(self, -1.0, other)

    def __neg__(self) -> Tensor:
        return self * -1.0

    __radd__ = __add__
    __rmul__ = __mul__


def tensor(values: Any, dtype: _core.DType | None = None, requires_grad: bool = False, device: str = "cpu") -> Tensor:
    """A leaf from an array or nested lists: floats become float32, integers int32, unless `dtype` says otherwise."""
    return Tensor(_core.from_numpy(np.asarray(values), dtype, device), requires_grad)


def from_dlpack(array: Any) -> Tensor:
    """A leaf in the memory of another library's array, without a copy: PyTorch, NumPy, CuPy, JAX, on the CPU or CUDA.

    Writing to one is seen in the other. The memory lives as long as either needs it; on CUDA our stream waits for the
    work that the array's library has started on it, and the memory goes back to it when ours is done.

    Args:
        array: has `__dlpack__`; float32, bfloat16 or int32, row-major without gaps, writable.

    Raises:
        ValueError: another type, layout or device, or read-only memory; `tensor` copies what this refuses.
    """
    return Tensor(_core.from_dlpack(array))


class Edge:
    """Where the gradient of a computed input goes. Unlike the Tensor it does not hold the input's numbers: of those
    only what a Function saves lives on until the backward pass.
    """

    __slots__ = ("_node", "_index")

    def __init__(self, node: Node, index: int):
        self._node, self._index = node, index

    @property
    def spec(self) -> tuple[tuple[int, ...], _core.DType, str]:
        """Shape, dtype and device of the input."""
        return self._node.output_specs[self._index]


def _target(argument: Any) -> Tensor | Edge | None:
    """What has to be known of an argument when its gradient is there; None if it needs none."""
    if not isinstance(argument, Tensor) or not argument.requires_grad:
        return None
    return argument if argument._node is None else Edge(argument._node, argument._index)


class Context:
    """What a Function keeps between its forward and its backward pass."""

    __slots__ = ("inputs", "saved", "_own_buffers")

    def __init__(self, inputs: list[Tensor | Edge | None]):
        self.inputs = inputs
        self.saved: tuple[Any, ...] = ()
        self._own_buffers: dict[int, _core.Tensor] = {}

    def save(self, *values: Any) -> None:
        self.saved = values

    def needs_grad(self, index: int) -> bool:
        return self.inputs[index] is not None

    def grad_buffer(self, index: int) -> _core.Tensor | None:
        """The float32 buffer into which a kernel adds the gradient of input `index`; None if that input needs none.

        For a leaf it is the leaf's own `grad`. An input that was computed (a merged LoRA weight, say) gets a buffer of
        its own, which the engine passes on.
        """
        source = self.inputs[index]
        if source is None:
            return None
        if isinstance(source, Tensor):
            return source.grad_as_buffer()
        if index not in self._own_buffers:
            shape, _, device = source.spec
            self._own_buffers[index] = _core.zeros(shape, _core.DType.float32, device)
        return self._own_buffers[index]

    def grad_to_write(self, index: int) -> tuple[_core.Tensor | None, bool]:
        """`grad_buffer` for a kernel that can overwrite it, and whether it has to add to what is there."""
        source = self.inputs[index]
        if isinstance(source, Tensor):
            return source.grad_to_write()
        return self.grad_buffer(index), True


class Node:
    """One recorded call: the Function, its context, and the nodes of its inputs."""

    __slots__ = ("function", "context", "output_specs", "order")

    def __init__(self, function: type[Function], context: Context, outputs: Sequence[_core.Tensor], order: int):
        self.function = function
        self.context: Context | None = context
        self.output_specs = [(output.shape, output.dtype, output.device) for output in outputs]
        self.order = order  # later nodes have larger numbers, so running by falling order is a topological order


class Function:
    """A differentiable operation. Subclasses define two static methods on `_core.Tensor`s.

    `forward(ctx, *args)` returns one output or a tuple; `backward(ctx, *grad_outputs)` returns a gradient or None for
    every argument of `forward` (a single value if there is one argument). A gradient written through
    `ctx.grad_buffer(i)` is returned as None. An output that nobody used arrives as None in `backward` if
    `undefined_gradients` is set, as zeros otherwise.
    """

    undefined_gradients = False

    @staticmethod
    def forward(ctx: Context, *args: Any) -> Any:
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Context, *grad_outputs: Any) -> Any:
        raise NotImplementedError

    @classmethod
    def apply(cls, *args: Any) -> Any:
        inputs = [_target(argument) for argument in args] if is_grad_enabled() else [None] * len(args)
        recording = any(source is not None for source in inputs)
        context = Context(inputs)
        result = cls.forward(
            context, *[argument.data if isinstance(argument, Tensor) else argument for argument in args]
        )
        outputs = result if isinstance(result, tuple) else (result,)
        wrapped = [Tensor(output, requires_grad=recording) for output in outputs]
        if recording:
            node = Node(cls, context, outputs, next(_orders))
            for index, output in enumerate(wrapped):
                output._node, output._index = node, index
        return tuple(wrapped) if isinstance(result, tuple) else wrapped[0]


def backward(root: Tensor, gradient: _core.Tensor | None = None) -> None:
    """See `Tensor.backward`."""
    if not root.requires_grad:
        raise RuntimeError("backward: this tensor was not computed from anything that requires a gradient")
    if gradient is None:
        if root.data.numel != 1:
            raise ValueError(f"backward: a tensor of shape {root.shape} needs a gradient; only a scalar has a default")
        gradient = _core.empty(root.shape, root.dtype, root.device)
        gradient.fill_(1.0)
        _state.seed = gradient
    try:
        _backward_from([(root, gradient)])
    finally:
        _state.seed = None


def is_seed(gradient: _core.Tensor) -> bool:
    """Whether this is the 1 that `backward()` began with: known without reading it, which would wait for the device."""
    return gradient is getattr(_state, "seed", None)


def _backward_from(roots: list[tuple[Tensor, _core.Tensor]]) -> None:
    """Runs the nodes behind `roots` from the newest to the oldest. Iterative, so depth does not matter."""
    waiting: dict[int, list[_core.Tensor | None]] = {}  # node order -> gradients of its outputs so far
    queue: list[tuple[int, Node]] = []

    def deliver(target: Tensor | Edge, gradient: _core.Tensor) -> None:
        node = target._node
        if node is None:
            assert isinstance(target, Tensor)
            _accumulate_leaf(target, gradient)
            return
        if node.order not in waiting:
            waiting[node.order] = [None] * len(node.output_specs)
            heapq.heappush(queue, (-node.order, node))
        present = waiting[node.order][target._index]
        waiting[node.order][target._index] = gradient if present is None else _core.add(present, gradient)

    for root, gradient in roots:
        deliver(root, gradient)
    while queue:
        order, node = heapq.heappop(queue)
        for source, input_gradient in _run(node, waiting.pop(-order)):
            deliver(source, input_gradient)


def _run(node: Node, gradients: list[_core.Tensor | None]) -> list[tuple[Tensor | Edge, _core.Tensor]]:
    """Runs one node's backward pass and frees what it saved; returns (input, gradient) pairs."""
    context = node.context
    if context is None:
        raise RuntimeError("backward: this graph was run before and its saved values are freed; compute the loss again")
    node.context = None
    if not node.function.undefined_gradients:
        for index, (shape, dtype, device) in enumerate(node.output_specs):
            if gradients[index] is None:
                gradients[index] = _core.zeros(shape, dtype, device)
    result = node.function.backward(context, *gradients)
    input_gradients = list(result) if isinstance(result, tuple) else [result]
    for index, buffer in context._own_buffers.items():
        source = context.inputs[index]
        assert isinstance(source, Edge)
        input_gradients[index] = buffer if source.spec[1] == _core.DType.float32 else buffer.cast(source.spec[1])
    pairs = []
    for source, input_gradient in zip(context.inputs, input_gradients, strict=True):
        if source is not None and input_gradient is not None:
            pairs.append((source, input_gradient))
    return pairs


def _accumulate_leaf(leaf: Tensor, gradient: _core.Tensor) -> None:
    buffer, add = leaf.grad_to_write()
    if add:
        _core.add_into(buffer, gradient)
    else:
        buffer.copy_(gradient)


class Generator:
    """Where dropout masks come from: a seed and a counter, no hidden state (Philox4x32-10).

    Every random op takes the next offset, `(step << 20) + index of the op within the step`. The trainer sets `step`
    before each micro-batch, so a resumed run draws the same masks.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self._step = 0
        self._index = 0

    @property
    def step(self) -> int:
        return self._step

    @step.setter
    def step(self, value: int) -> None:
        self._step, self._index = value, 0

    def next_offset(self) -> int:
        self._index += 1
        return self.offset_of(self._step) + self._index - 1

    @staticmethod
    def offset_of(step: int) -> int:
        """Where the offsets of a step begin; of a difference of steps, how far apart they are (modulo 2^64)."""
        return (step << 20) % 2**64

    def next_key(self) -> tuple[int, int]:
        """Key and offset of the next mask, as the kernels take them."""
        return self.seed & 0xFFFFFFFFFFFFFFFF, self.next_offset()

    def state(self) -> dict[str, int]:
        return {"seed": self.seed, "step": self._step, "index": self._index}

    def set_state(self, state: dict[str, int]) -> None:
        self.seed, self._step, self._index = state["seed"], state["step"], state["index"]


class _Checkpoint(Function):
    """Runs `fn` without recording; the backward pass runs it again, recording, and differentiates that."""

    undefined_gradients = True

    @staticmethod
    def forward(ctx: Context, fn: Callable[..., Any], generator: Generator | None, *inputs: _core.Tensor) -> Any:
        ctx.save(fn, generator, generator.state() if generator else None, inputs)
        with no_grad():
            outputs = fn(*[Tensor(data) for data in inputs])
        return tuple(output.data for output in outputs) if isinstance(outputs, tuple) else outputs.data

    @staticmethod
    def backward(ctx: Context, *gradients: _core.Tensor | None) -> Any:
        fn, generator, state, inputs = ctx.saved
        leaves = [Tensor(data, requires_grad=ctx.needs_grad(index + 2)) for index, data in enumerate(inputs)]
        with _replay(generator, state), _grad_mode(True):
            outputs = fn(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        _backward_from([pair for pair in zip(outputs, gradients, strict=True) if pair[1] is not None])
        return (None, None, *[leaf.grad and leaf.grad.cast(leaf.dtype) for leaf in leaves])


@contextlib.contextmanager
def _replay(generator: Generator | None, state: dict[str, int] | None) -> Iterator[None]:
    """Sets the generator back to `state`, and afterwards to where it was."""
    if generator is None or state is None:
        yield
        return
    now = generator.state()
    generator.set_state(state)
    try:
        yield
    finally:
        generator.set_state(now)


def checkpoint(fn: Callable[..., Any], *inputs: Tensor, generator: Generator | None = None) -> Any:
    """`fn(*inputs)`, keeping only the inputs for the backward pass, which computes the rest again.

    Chen et al. 2016, arXiv:1604.06174. `fn` returns a Tensor or a tuple of them. `generator`, the source of dropout in
    `fn`, is set back so that the same masks are drawn.
    """
    if is_grad_enabled() and not any(tensor.requires_grad for tensor in inputs):
        # what `fn` uses inside may be trained although its inputs are not: LoRA on top of frozen embeddings
        inputs = (Tensor(inputs[0].data, requires_grad=True), *inputs[1:])
    return _Checkpoint.apply(fn, generator, *inputs)
