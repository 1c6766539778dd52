"""What a kernel call has to do at the least: multiply-adds, counted as two operations, and bytes moved.

Operations are counted for matrix products only (attention among them): everything else waits for memory. Bytes are
those of arguments and results, each read or written once; what is added to is read and written.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

from llmcore import _core


@dataclasses.dataclass(frozen=True)
class Cost:
    """`flops` and `nbytes` of a call, the dtype in which it computes, and its sizes for a person to read."""

    flops: float
    nbytes: float
    dtype: _core.DType
    shape: str


def cost_of(op: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Cost:
    """The cost of one call of `_core`. An op without a rule of its own moves its arguments and results."""
    arguments = [*args, *kwargs.values()]
    tensors = tensors_in([arguments, result])
    first = next((tensor for tensor in tensors if tensor.dtype != _core.DType.int32), None)
    dtype = first.dtype if first is not None else _core.DType.float32
    flops, nbytes, shape = 0.0, float(sum(tensor.nbytes for tensor in tensors)), _spell(first)
    if op in _RULES:
        flops, nbytes, shape = _RULES[op](arguments, result, nbytes)
    if op in ("matmul_add", "linear_cross_entropy_backward"):  # the first argument is a float32 sum
        dtype = arguments[1].dtype
    return Cost(flops, nbytes, dtype, shape)


def tensors_in(values: Iterable[Any]) -> list[_core.Tensor]:
    """The tensors among the values, and in their lists and tuples."""
    found = []
    for value in values:
        if isinstance(value, _core.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(value)
    return found


def _spell(tensor: _core.Tensor | None) -> str:
    return "" if tensor is None else " x ".join(map(str, tensor.shape))


# ---------------------------------------------------------------------------------------------------- rules
# (arguments, result, bytes of arguments and results) -> operations, bytes, shape

Rule = Callable[[list[Any], Any, float], tuple[float, float, str]]


def _product(a: _core.Tensor, transposed: tuple[Any, ...], y: _core.Tensor) -> tuple[float, str]:
    """op(a) op(b) = y"""
    K = a.shape[-2] if transposed[0] else a.shape[-1]
    M, N = y.shape[-2:]
    form = f"{'a^T' if transposed[0] else 'a'} {'b^T' if transposed[1] else 'b'}"
    batch = y.numel // (M * N) if M * N else 0
    times = "" if batch == 1 else f"{batch} x "
    return 2.0 * y.numel * K, f"{form} {times}{M} x {N} x {K}"


def _matmul(arguments: list[Any], result: Any, nbytes: float) -> tuple[float, float, str]:
    a, _, *flags = arguments
    flops, shape = _product(a, (*flags, False, False)[:2], result)
    return flops, nbytes, shape


def _matmul_add(arguments: list[Any], result: Any, nbytes: float) -> tuple[float, float, str]:
    y, a, _, *flags = arguments
    accumulate = len(flags) < 3 or flags[2]
    flops, shape = _product(a, (*flags, False, False)[:2], y)
    return flops, nbytes + (y.nbytes if accumulate else 0), shape


def _linear(arguments: list[Any], result: Any, nbytes: float) -> tuple[float, float, str]:
    x, _, _, activation, _, transposed, _ = arguments
    K, N = x.shape[-1], result[0].shape[-1]
    rows = math.prod(x.shape[:-1])
    shape = f"a {'b^T' if transposed else 'b'} {rows} x {N} x {K}"
    return 2.0 * rows * N * K, nbytes, f"{shape} {activation}".rstrip()


def _linear_activation_backward(arguments: list[Any], result: Any, nbytes: float) -> tuple[float, float, str]:
    dy, _, _, activation, transposed, _ = arguments
    N, K = dy.shape[-1], result.shape[-1]
    rows = math.prod(dy.shape[:-1])
    return 2.0 * rows * N * K, nbytes, f"a {'b' if transposed else 'b^T'} {rows} x {K} x {N} {activation}'".rstrip()


def _attention(factor: float, output: int, keys: int) -> Rule:
    """`factor` products of queries and keys; `output` is the argument with the shape of the result (-1: the result),
    `keys` the argument whose second dimension counts the keys. Half of them are seen with a causal mask. Padding is
    counted as if it were text.
    """

    def rule(arguments: list[Any], result: Any, nbytes: float) -> tuple[float, float, str]:
        out = result[0] if output < 0 else arguments[output]
        B, Tq, C = out.shape
        Tk = arguments[keys].shape[1]
        options = arguments[-1]
        seen = (Tk - (Tq - 1) / 2) if options.causal else Tk
        shape = f"{B} x {Tq} x {Tk} x {C}{' causal' if options.causal else ''}, {options.num_heads} heads"
        return 2.0 * factor * B * Tq * seen * C, nbytes, shape

    return rule


def _linear_cross_entropy(products: int, first: int) -> Rule:
    """`products` matrix products of (N, V, C); the logits need not leave the cache."""

    def rule(arguments: list[Any], result: Any, nbytes: float) -> tuple[float, float, str]:
        x, weight = arguments[first], arguments[first + 1]
        V, C = weight.shape
        rows = x.numel // C
        sums = sum(t.nbytes for t in tensors_in(arguments[first + 2 :]) if t.shape == weight.shape)  # dweight, read too
        return 2.0 * products * rows * V * C, nbytes + sums, f"{rows} x {V} x {C}"

    return rule


def _gather(rows_moved: int) -> Rule:
    """Of a table only the rows that ids name; the last tensor that is not a table has their size."""

    def rule(arguments: list[Any], result: Any, nbytes: float) -> tuple[float, float, str]:
        rows = result if isinstance(result, _core.Tensor) else arguments[1]
        return 0.0, float(rows_moved * rows.nbytes), _spell(rows)

    return rule


def _optimizer_step(arguments: list[Any], result: Any, nbytes: float) -> tuple[float, float, str]:
    params, master, grads, *rest = arguments
    states = sum(state.nbytes for state in tensors_in(rest) if state.numel == params.numel)
    weights = 2 * params.nbytes if master is None else params.nbytes + 2 * master.nbytes
    return 0.0, float(weights + grads.nbytes + 2 * states), _spell(params)


def _added_to(arguments: list[Any], result: Any, nbytes: float) -> tuple[float, float, str]:
    return 0.0, nbytes + arguments[0].nbytes, _spell(arguments[0])


def _nothing(arguments: list[Any], result: Any, nbytes: float) -> tuple[float, float, str]:
    return 0.0, 0.0, _spell(result)


_RULES: dict[str, Rule] = {
    "matmul": _matmul,
    "matmul_add": _matmul_add,
    "linear_forward": _linear,
    "linear_activation_backward": _linear_activation_backward,
    # forward: q k^T and p v; backward: q k^T again, dp, dv, dq, dk
    "attention_forward": _attention(2, -1, 1),
    "attention_qkv_forward": _attention(2, -1, 0),
    "attention_backward": _attention(5, 0, 2),
    "attention_qkv_backward": _attention(5, 0, 1),
    "linear_cross_entropy_forward": _linear_cross_entropy(1, 0),
    "linear_cross_entropy_per_token": _linear_cross_entropy(1, 0),
    "linear_cross_entropy_fused": _linear_cross_entropy(3, 0),
    "linear_cross_entropy_backward": _linear_cross_entropy(3, 1),
    "embedding_forward": _gather(2),
    "token_position_embedding_forward": _gather(3),
    "embedding_backward": _gather(3),
    "adamw_step": _optimizer_step,
    "sgd_step": _optimizer_step,
    "rmsprop_step": _optimizer_step,
    "add_into": _added_to,
    "position_embedding_backward": _added_to,
    "add_column_sums": _added_to,
    "empty": _nothing,
}
