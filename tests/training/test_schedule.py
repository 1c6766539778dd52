"""`llmcore.schedule` against transformers.get_scheduler and torch's ReduceLROnPlateau."""

from __future__ import annotations

import json
import math

import pytest

from llmcore.errors import ConfigError
from llmcore.schedule import SCHEDULES, ReduceLROnPlateau, get_scheduler

RATE = 3e-4
SETTINGS = {
    "linear": [{}],
    "cosine": [{}, {"num_cycles": 1.5}],
    "cosine_with_restarts": [{}, {"num_cycles": 3}],
    "polynomial": [{}, {"lr_end": 1e-5, "power": 2.0}],
    "constant": [{}],
    "constant_with_warmup": [{}],
    "inverse_sqrt": [{}, {"timescale": 50}],
    "cosine_with_min_lr": [{"min_lr_rate": 0.1}, {"min_lr": 3e-5, "num_cycles": 1.0}],
    "cosine_warmup_with_min_lr": [{"min_lr_rate": 0.1}, {"min_lr": 3e-5, "warmup_lr_rate": 0.05}],
    "warmup_stable_decay": [
        {"num_decay_steps": 30},
        {"num_decay_steps": 30, "warmup_type": "cosine", "decay_type": "1-sqrt", "min_lr_ratio": 0.1},
        {"num_decay_steps": 20, "num_stable_steps": 40, "warmup_type": "1-sqrt", "decay_type": "linear"},
    ],
}


def test_every_schedule_is_compared():
    assert set(SETTINGS) == set(SCHEDULES)


@pytest.mark.parametrize("warmup", [0, 1, 17])
@pytest.mark.parametrize("name, settings", [(name, case) for name, cases in SETTINGS.items() for case in cases])
@pytest.mark.filterwarnings("ignore")  # transformers warns that num_stable_steps and num_training_steps are both given
def test_equals_transformers(name, settings, warmup):
    torch = pytest.importorskip("torch")
    optimization = pytest.importorskip("transformers.optimization")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=RATE)
    total = 101
    theirs = optimization.get_scheduler(name, optimizer, warmup, total, scheduler_specific_kwargs=settings)
    ours = get_scheduler(name, num_warmup_steps=warmup, num_training_steps=total, learning_rate=RATE, **settings)
    for step in range(total + 5):
        assert RATE * ours(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12, rel=1e-12), f"step {step}"
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_plateau_equals_torch(mode, threshold_mode):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    settings = {"mode": mode, "threshold_mode": threshold_mode, "patience": 2, "cooldown": 1, "threshold": 0.01}
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **settings, min_lr=1e-6)
    ours = ReduceLROnPlateau(RATE, **settings, min_lr=1e-6)
    for step in range(60):
        metric = 2.0 + math.sin(step / 3) / (1 + step)
        theirs.step(metric)
        ours.step(metric)
        assert RATE * ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        restored = ReduceLROnPlateau(RATE, **settings, min_lr=1e-6)
        restored.load_state_dict(json.loads(json.dumps(ours.state_dict())))
        ours = restored


def test_unknown_name_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'cosine_with_min_lr'"):
        get_scheduler("cosine_with_minlr", num_training_steps=10)


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("linear", {"power": 2}, "linear.*'power'"),
        ("cosine_with_min_lr", {}, "exactly one of min_lr and min_lr_rate"),
        ("cosine_with_min_lr", {"min_lr": 1e-5, "min_lr_rate": 0.1}, "exactly one"),
        ("warmup_stable_decay", {}, "num_decay_steps"),
        ("warmup_stable_decay", {"num_decay_steps": 3, "decay_type": "exp"}, "linear, cosine or 1-sqrt"),
        ("polynomial", {"lr_end": 1.0}, "below the learning rate"),
    ],
)
def test_wrong_settings_are_named(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        get_scheduler(name, num_training_steps=10, learning_rate=RATE, **settings)


def test_missing_total_is_named():
    with pytest.raises(ConfigError, match="needs num_training_steps"):
        get_scheduler("cosine")
