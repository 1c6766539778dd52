from __future__ import annotations

import numpy as np
import pytest

from llmcore import _core, nn
from llmcore.nn.layers import Initializer
from tests.cases import BFLOAT16, DTYPES


class Pair(nn.Module):
    def __init__(self, seed: int | None = 0):
        init = Initializer(seed)
        self.parts = [nn.Linear(init, "parts.0", 3, 4), nn.Conv1D(init, "parts.1", 4, 2, bias=False)]
        self.norm = nn.LayerNorm(init, 2)
        self.tied = self.parts[0].weight


def test_names_are_paths_and_tied_parameters_come_once():
    names = dict(Pair().named_parameters())
    # `tied` is an attribute of the root, so that is its first name
    assert set(names) == {"tied", "parts.0.bias", "parts.1.weight", "norm.weight", "norm.bias"}
    assert names["tied"].shape == (4, 3) and names["parts.1.weight"].shape == (4, 2)
    assert Pair().num_parameters() == 12 + 4 + 8 + 2 + 2


def test_initial_values_depend_on_seed_and_name_only():
    one, same, other = Pair(0), Pair(0), Pair(1)
    np.testing.assert_array_equal(one.tied.numpy(), same.tied.numpy())
    assert not np.array_equal(one.tied.numpy(), other.tied.numpy())
    wide = Initializer(0).normal("x", (400, 400), std=0.02).numpy()
    assert abs(wide.std() - 0.02) < 2e-4 and abs(wide.mean()) < 2e-4


def test_initial_values_are_the_same_numbers_in_every_dtype():
    wide, narrow = (Initializer(3, dtype).normal("x", (37, 5), std=0.5) for dtype in DTYPES)
    np.testing.assert_array_equal(narrow.numpy(), _core.from_numpy(wide.numpy(), BFLOAT16).numpy())


def test_state_dict_round_trip_and_refusals():
    source, target = Pair(0), Pair(1)
    state = {name: value.numpy().copy() for name, value in source.state_dict().items()}
    target.load_state_dict(state)
    for name, value in target.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[name])

    before = target.tied.numpy().copy()
    with pytest.raises(KeyError, match="'norm.bias' is missing"):
        target.load_state_dict({name: value for name, value in state.items() if name != "norm.bias"})
    with pytest.raises(KeyError, match="no parameter 'norm.wait'; did you mean 'norm.weight'"):
        target.load_state_dict({**state, "norm.wait": np.zeros(2)})
    with pytest.raises(ValueError, match=r"norm.weight must have shape \(2,\), got \(3,\)"):
        target.load_state_dict({**state, "tied": before * 2, "norm.weight": np.zeros(3)})
    np.testing.assert_array_equal(target.tied.numpy(), before)  # nothing was written


def test_train_and_eval_reach_every_part():
    model = Pair()
    model.eval()
    assert not any(module.training for module in model.modules())
    model.train()
    assert all(module.training for module in model.modules())


def test_zero_grad():
    model = Pair()
    model.tied.grad_as_buffer().fill_(3.0)
    model.zero_grad()
    assert model.tied.grad.numpy().max() == 0
    assert model.tied.grad.dtype == _core.DType.float32
