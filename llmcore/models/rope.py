"""The frequencies of rotary position embeddings and the rules that stretch them, with the names of transformers.

A rule (`rope_type` in a configuration's `rope_parameters`) gives the angle that each pair of elements turns per
position, and a factor on cos and sin. The steps and their float32 roundings are those of transformers: the models were
trained with them, and at position 8000 the last bit of a frequency is a thousandth of a turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from llmcore import _core
from llmcore.errors import ConfigError

DEFAULT_THETA = 10000.0
_COMMON = {"rope_type", "rope_theta"}
# Keys of `rope_parameters` for each rule: those it cannot do without, and those that have a default.
_REQUIRED = {
    "default": set(),
    "linear": {"factor"},
    "dynamic": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
    "yarn": {"factor"},
}
_OPTIONAL = {
    "llama3": {"original_max_position_embeddings"},
    "yarn": {
        *("original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    },
}


def standard_rope_parameters(parameters: dict[str, Any] | None, max_position_embeddings: int) -> dict[str, Any]:
    """`rope_parameters` with its defaults filled in; reads the older key `type`, too.

    Raises ConfigError for a rule that is not known here and for keys that are missing, unknown or not numbers.
    """
    result = dict(parameters or {})
    old_name = result.pop("type", "default")
    result.setdefault("rope_type", old_name)
    if result.get("rope_theta") is None:
        result["rope_theta"] = DEFAULT_THETA
    rule = result["rope_type"]
    if rule not in _REQUIRED:
        raise ConfigError(f"rope_parameters: rope_type must be one of {', '.join(_REQUIRED)}, got {rule!r}")
    optional = _OPTIONAL.get(rule, set())
    if "original_max_position_embeddings" in optional:
        result.setdefault("original_max_position_embeddings", max_position_embeddings)
    for name in sorted(_REQUIRED[rule] - set(result)):
        raise ConfigError(f"rope_parameters: {rule!r} needs {name!r}")
    for name in sorted(set(result) - _COMMON - _REQUIRED[rule] - optional):
        raise ConfigError(f"rope_parameters: {rule!r} has no {name!r}: it may change what the model computes")
    for name in sorted(_REQUIRED[rule] | {"rope_theta"}):
        if not isinstance(result[name], (int, float)) or not result[name] > 0:
            raise ConfigError(f"rope_parameters: {name} must be a number above 0, got {result[name]!r}")
    return result


# A rule takes (rope_parameters, R, max_position_embeddings, length of the sequence) and gives the frequencies (R/2)
# float32 in radians per position, and the factor on cos and sin.
Rule = Callable[[dict[str, Any], int, int, int], tuple[np.ndarray, float]]


def _powers(theta: float, R: int) -> np.ndarray:
    """theta^(2i/R) for i < R/2, float32."""
    return np.float32(theta) ** (np.arange(0, R, 2, dtype=np.float32) / np.float32(R))


def _default(parameters: dict[str, Any], R: int, limit: int, length: int) -> tuple[np.ndarray, float]:
    return np.float32(1) / _powers(parameters["rope_theta"], R), 1.0


def _linear(parameters: dict[str, Any], R: int, limit: int, length: int) -> tuple[np.ndarray, float]:
    """Positions squeezed together by `factor`."""
    return _default(parameters, R, limit, length)[0] / np.float32(parameters["factor"]), 1.0


def _dynamic(parameters: dict[str, Any], R: int, limit: int, length: int) -> tuple[np.ndarray, float]:
    """ "NTK-aware": once a sequence is longer than the model was trained for, theta grows with its length."""
    factor = parameters["factor"]
    stretch = factor * max(length, limit) / limit - (factor - 1)
    theta = parameters["rope_theta"] * stretch ** (R / (R - 2))
    return np.float32(1) / _powers(theta, R), 1.0


def _llama3(parameters: dict[str, Any], R: int, limit: int, length: int) -> tuple[np.ndarray, float]:
    """Long waves are slowed by `factor`, short ones kept, those between blended (Llama 3.1)."""
    frequencies, _ = _default(parameters, R, limit, length)
    factor, low, high = (parameters[name] for name in ("factor", "low_freq_factor", "high_freq_factor"))
    original = parameters["original_max_position_embeddings"]
    wavelengths = 2 * math.pi / frequencies
    slowed = np.where(wavelengths > original / low, frequencies / np.float32(factor), frequencies)
    smooth = (original / wavelengths - low) / (high - low)
    blended = (1 - smooth) * slowed / factor + smooth * slowed
    between = (wavelengths >= original / high) & (wavelengths <= original / low)
    return np.where(between, blended, slowed).astype(np.float32), 1.0


def _yarn(parameters: dict[str, Any], R: int, limit: int, length: int) -> tuple[np.ndarray, float]:
    """Blends kept and slowed frequencies by how often a wave fits into the original context (Peng et al. 2023,
    arXiv:2309.00071, sections 3.2 to 3.4)."""
    theta, factor = parameters["rope_theta"], parameters["factor"]
    original = parameters["original_max_position_embeddings"]

    def dimension(rotations: float) -> float:
        return R * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = dimension(parameters.get("beta_fast") or 32)
    high = dimension(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, R - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(R // 2, dtype=np.float32) - low) / np.float32(high - low), 0, 1)
    powers = _powers(theta, R)
    kept = 1 - ramp
    frequencies = np.float32(1) / (np.float32(factor) * powers) * (1 - kept) + np.float32(1) / powers * kept
    return frequencies.astype(np.float32), _yarn_attention_factor(parameters)


def _yarn_attention_factor(parameters: dict[str, Any]) -> float:
    if parameters.get("attention_factor") is not None:
        return float(parameters["attention_factor"])

    def scale(weight: float) -> float:
        return 1.0 if parameters["factor"] <= 1 else 0.1 * weight * math.log(parameters["factor"]) + 1.0

    weight, weight_all = parameters.get("mscale"), parameters.get("mscale_all_dim")
    return scale(weight) / scale(weight_all) if weight and weight_all else scale(1.0)


_RULES: dict[str, Rule] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
}


def rope_frequencies(
    parameters: dict[str, Any], R: int, max_position_embeddings: int, length: int = 0
) -> tuple[np.ndarray, float]:
    """(radians per position of each pair, (R/2) float32; factor on cos and sin) for a sequence of `length`.

    `parameters` as `standard_rope_parameters` returns them. Only "dynamic" looks at `length`.
    """
    return _RULES[parameters["rope_type"]](parameters, R, max_position_embeddings, length)


class RotaryTables:
    """cos and sin of every position, for `functional.rope`; made when a sequence first needs them, and kept.

    Not a function of the sequence length except under "dynamic": there the tables change once the length passes
    `max_position_embeddings`. Keys that a cache already holds keep their old angles then, as in transformers.
    """

    def __init__(self, parameters: dict[str, Any], R: int, max_position_embeddings: int):
        self.parameters, self.R, self.limit = parameters, R, max_position_embeddings
        self._length, self._device = 0, ""
        self._tables: tuple[_core.Tensor, _core.Tensor] | None = None

    def __call__(self, length: int, device: str = "cpu") -> tuple[_core.Tensor, _core.Tensor]:
        """(cos, sin), each (P, R/2) float32 on `device`, with P >= length."""
        stretched = self.parameters["rope_type"] == "dynamic" and max(length, self._length) > self.limit
        moved = self._tables is None or device != self._device
        if moved or length > self._length or (stretched and length != self._length):
            # Some positions in advance: a text that grows token by token makes few tables.
            self._length = length if stretched else min(max(2 * length, 256), max(length, self.limit))
            self._tables, self._device = self._make(self._length, device), device
        assert self._tables is not None
        return self._tables

    def tensors(self) -> tuple[_core.Tensor, ...]:
        """Those that are in use."""
        return self._tables or ()

    def _make(self, positions: int, device: str) -> tuple[_core.Tensor, _core.Tensor]:
        frequencies, factor = rope_frequencies(self.parameters, self.R, self.limit, positions)
        angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies  # float32: see above
        return tuple(
            _core.from_numpy((function(angles.astype(np.float64)) * factor).astype(np.float32), device=device)
            for function in (np.cos, np.sin)
        )
