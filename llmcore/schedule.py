"""Learning rate schedules by their Hugging Face names, as pure functions from the update's number to a factor.

Update number 0 is the first one. The factor multiplies the peak learning rate. Warm-up rises linearly from 0, so the
first update of a schedule with warm-up has rate 0, as in transformers.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from typing import Any

from llmcore.errors import ConfigError

Schedule = Callable[[int], float]


def get_scheduler(
    name: str,
    *,
    num_warmup_steps: int = 0,
    num_training_steps: int | None = None,
    learning_rate: float | None = None,
    **settings: Any,
) -> Schedule:
    """The schedule called `name`.

    Args:
        name: one of `SCHEDULES`.
        num_warmup_steps: updates of warm-up.
        num_training_steps: all updates, warm-up included; the constant schedules and `inverse_sqrt` do without.
        learning_rate: the peak rate; needed to turn `min_lr` and `lr_end`, which are rates, into factors.
        settings: what the schedule takes besides, such as `num_cycles`, `power`, `min_lr_rate`.

    Raises ConfigError for an unknown name or setting, or if something that the schedule needs is missing.
    """
    name = getattr(name, "value", name)
    if name not in SCHEDULES:
        close = difflib.get_close_matches(str(name), SCHEDULES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"there is no schedule {name!r}, only {', '.join(SCHEDULES)}{hint}")
    build, needs_total = SCHEDULES[name]
    if num_warmup_steps < 0:
        raise ConfigError(f"num_warmup_steps must not be negative, got {num_warmup_steps}")
    if needs_total and num_training_steps is None:
        raise ConfigError(f"the schedule {name!r} needs num_training_steps")
    try:
        return build(num_warmup_steps, num_training_steps, learning_rate, **settings)
    except TypeError as error:
        unexpected = str(error).partition("argument ")[2] or str(error)
        raise ConfigError(f"the schedule {name!r} does not take or misses the setting {unexpected}") from None


def _warmup(step: int, warmup: int) -> float:
    return step / max(1, warmup)


def _progress(step: int, warmup: int, total: int) -> float:
    return (step - warmup) / max(1, total - warmup)


def _half_cosine(progress: float, num_cycles: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * num_cycles * 2.0 * progress))


def _constant(warmup: int, total: int | None, rate: float | None) -> Schedule:
    return lambda step: 1.0


def _constant_with_warmup(warmup: int, total: int | None, rate: float | None) -> Schedule:
    return lambda step: _warmup(step, warmup) if step < warmup else 1.0


def _linear(warmup: int, total: int, rate: float | None) -> Schedule:
    def factor(step: int) -> float:
        return _warmup(step, warmup) if step < warmup else max(0.0, (total - step) / max(1, total - warmup))

    return factor


def _cosine(warmup: int, total: int, rate: float | None, num_cycles: float = 0.5) -> Schedule:
    def factor(step: int) -> float:
        if step < warmup:
            return _warmup(step, warmup)
        return max(0.0, _half_cosine(_progress(step, warmup, total), num_cycles))

    return factor


def _cosine_with_restarts(warmup: int, total: int, rate: float | None, num_cycles: int = 1) -> Schedule:
    def factor(step: int) -> float:
        if step < warmup:
            return _warmup(step, warmup)
        progress = _progress(step, warmup, total)
        return 0.0 if progress >= 1.0 else 0.5 * (1.0 + math.cos(math.pi * ((num_cycles * progress) % 1.0)))

    return factor


def _polynomial(warmup: int, total: int, rate: float | None, lr_end: float = 1e-7, power: float = 1.0) -> Schedule:
    if rate is None or not lr_end < rate:
        raise ConfigError(f"the schedule 'polynomial' needs lr_end ({lr_end}) below the learning rate ({rate})")

    def factor(step: int) -> float:
        if step < warmup:
            return _warmup(step, warmup)
        if step > total:
            return lr_end / rate
        remaining = 1 - (step - warmup) / max(1, total - warmup)
        return ((rate - lr_end) * remaining**power + lr_end) / rate

    return factor


def _inverse_sqrt(warmup: int, total: int | None, rate: float | None, timescale: int | None = None) -> Schedule:
    timescale = timescale or warmup or 10_000

    def factor(step: int) -> float:
        return _warmup(step, warmup) if step < warmup else 1.0 / math.sqrt((step + timescale - warmup) / timescale)

    return factor


def _floor(name: str, rate: float | None, min_lr: float | None, min_lr_rate: float | None) -> float:
    if (min_lr is None) == (min_lr_rate is None):
        raise ConfigError(f"the schedule {name!r} needs exactly one of min_lr and min_lr_rate in lr_scheduler_kwargs")
    if min_lr_rate is not None:
        return min_lr_rate
    if not rate:
        raise ConfigError(f"the schedule {name!r} needs the learning rate to use min_lr")
    return min_lr / rate  # type: ignore[operator]


def _cosine_with_min_lr(
    warmup: int,
    total: int,
    rate: float | None,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> Schedule:
    floor = _floor("cosine_with_min_lr", rate, min_lr, min_lr_rate)

    def factor(step: int) -> float:
        if step < warmup:
            return _warmup(step, warmup)
        return max(0.0, _half_cosine(_progress(step, warmup, total), num_cycles) * (1 - floor) + floor)

    return factor


def _cosine_warmup_with_min_lr(
    warmup: int,
    total: int,
    rate: float | None,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> Schedule:
    # Counts from 1 where its sibling counts from 0: neither end of this one has rate 0.
    floor = _floor("cosine_warmup_with_min_lr", rate, min_lr, min_lr_rate)

    def factor(step: int) -> float:
        if step < warmup and warmup_lr_rate is None:
            return (step + 1) / warmup
        if step < warmup:
            return warmup_lr_rate + (1.0 - warmup_lr_rate) * step / max(1, warmup - 1)  # type: ignore[operator]
        progress = (step - warmup + 1) / max(1, total - warmup)
        return max(0.0, _half_cosine(progress, num_cycles) * (1 - floor) + floor)

    return factor


_RISE: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: progress,
    "cosine": lambda progress: 0.5 * (1.0 - math.cos(math.pi * progress)),
    "1-sqrt": lambda progress: 1.0 - math.sqrt(1.0 - progress),
}
_FALLS = ("linear", "cosine", "1-sqrt")


def _fall(kind: str, progress: float, num_cycles: float) -> float:
    if kind == "linear":
        return 1.0 - progress
    return _half_cosine(progress, num_cycles) if kind == "cosine" else 1.0 - math.sqrt(progress)


def _warmup_stable_decay(
    warmup: int,
    total: int | None,
    rate: float | None,
    num_decay_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
) -> Schedule:
    if num_decay_steps is None:
        raise ConfigError("the schedule 'warmup_stable_decay' needs num_decay_steps in lr_scheduler_kwargs")
    if warmup_type not in _RISE or decay_type not in _FALLS:
        raise ConfigError(
            f"warmup_type and decay_type must be linear, cosine or 1-sqrt, got {warmup_type!r} and {decay_type!r}"
        )
    if num_stable_steps is None:
        if total is None:
            raise ConfigError("the schedule 'warmup_stable_decay' needs num_training_steps or num_stable_steps")
        num_stable_steps = total - warmup - num_decay_steps
    decay_start = warmup + num_stable_steps

    def factor(step: int) -> float:
        if step < warmup:
            rise = _RISE[warmup_type](_warmup(step, warmup))
            return max(0.0, rise * (1.0 - min_lr_ratio) + min_lr_ratio)
        if step < decay_start:
            return 1.0
        if step < decay_start + num_decay_steps:
            fall = _fall(decay_type, (step - decay_start) / max(1, num_decay_steps), num_cycles)
            return max(0.0, fall * (1.0 - min_lr_ratio) + min_lr_ratio)
        return min_lr_ratio

    return factor


# name -> (builder, whether it needs the number of all updates)
SCHEDULES: dict[str, tuple[Callable[..., Schedule], bool]] = {
    "linear": (_linear, True),
    "cosine": (_cosine, True),
    "cosine_with_restarts": (_cosine_with_restarts, True),
    "polynomial": (_polynomial, True),
    "constant": (_constant, False),
    "constant_with_warmup": (_constant_with_warmup, False),
    "inverse_sqrt": (_inverse_sqrt, False),
    "cosine_with_min_lr": (_cosine_with_min_lr, True),
    "cosine_warmup_with_min_lr": (_cosine_warmup_with_min_lr, True),
    "warmup_stable_decay": (_warmup_stable_decay, False),
}


class ReduceLROnPlateau:
    """Factor that falls when a metric has stopped improving: the only schedule with a memory.

    `step(metric)` after each evaluation; calling it gives the factor. The settings are PyTorch's; `min_lr` is a rate.
    """

    def __init__(
        self,
        learning_rate: float,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if not 0 < factor < 1:
            raise ConfigError(f"reduce_lr_on_plateau: factor must lie between 0 and 1, got {factor}")
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            raise ConfigError(
                "reduce_lr_on_plateau: mode is min or max and threshold_mode is rel or abs, "
                f"got {mode!r} and {threshold_mode!r}"
            )
        self.learning_rate, self.mode, self.factor = learning_rate, mode, factor
        self.patience, self.threshold, self.threshold_mode = patience, threshold, threshold_mode
        self.cooldown, self.min_lr, self.eps = cooldown, min_lr, eps
        self.rate = learning_rate
        self.best = math.inf if mode == "min" else -math.inf
        self.bad, self.cooling = 0, 0

    def __call__(self, step: int) -> float:
        return self.rate / self.learning_rate if self.learning_rate else 1.0

    def step(self, metric: float) -> None:
        """Takes the metric of one evaluation into account."""
        if self._is_better(metric):
            self.best, self.bad = metric, 0
        else:
            self.bad += 1
        if self.cooling > 0:
            self.cooling, self.bad = self.cooling - 1, 0
        if self.bad > self.patience:
            lower = max(self.rate * self.factor, self.min_lr)
            self.rate = lower if self.rate - lower > self.eps else self.rate
            self.cooling, self.bad = self.cooldown, 0

    def _is_better(self, metric: float) -> bool:
        sign = -1.0 if self.mode == "min" else 1.0
        if self.threshold_mode == "abs":
            return sign * metric > sign * self.best + self.threshold
        return sign * metric > sign * self.best * (1.0 + sign * self.threshold)

    def state_dict(self) -> dict[str, float | int | None]:
        """JSON-ready state."""
        best = self.best if math.isfinite(self.best) else None
        return {"rate": self.rate, "best": best, "bad": self.bad, "cooling": self.cooling}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self.rate, self.bad, self.cooling = state["rate"], state["bad"], state["cooling"]
        if state["best"] is not None:
            self.best = state["best"]
