"""The optimizers of `llmcore.optim` against torch.optim, the flat buffers, and the state."""

from __future__ import annotations

import numpy as np
import pytest

from llmcore import _core, optim
from llmcore.autograd import Tensor, tensor
from llmcore.errors import CheckpointError, ConfigError
from llmcore.optim import SGD, Adam, AdamW, RMSprop, create_optimizer, has_weight_decay
from llmcore.training.arguments import TrainingArguments

SHAPES = {"wte.weight": (5, 7), "h.0.ln_1.weight": (7,), "h.0.fc.weight": (7, 33), "h.0.fc.bias": (33,), "odd": (1, 1)}
BF16 = _core.DType.bfloat16


def make_parameters(seed=0, dtype=None) -> dict[str, Tensor]:
    random = np.random.default_rng(seed)
    return {
        name: tensor(random.standard_normal(shape).astype(np.float32), dtype, requires_grad=True)
        for name, shape in SHAPES.items()
    }


def set_gradients(parameters: dict[str, Tensor], step: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(100 + step)
    gradients = {name: (scale * random.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}
    for name, parameter in parameters.items():
        parameter.grad_as_buffer().copy_(_core.from_numpy(gradients[name]))
    return gradients


CASES = [
    (AdamW, "AdamW", {}, {}),
    (AdamW, "AdamW", {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6}, {"betas": (0.8, 0.95), "eps": 1e-6}),
    (Adam, "Adam", {}, {}),
    (SGD, "SGD", {}, {}),
    (SGD, "SGD", {"momentum": 0.9, "dampening": 0.1}, {"momentum": 0.9, "dampening": 0.1}),
    (SGD, "SGD", {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "nesterov": True}),
    (RMSprop, "RMSprop", {}, {}),
    (RMSprop, "RMSprop", {"alpha": 0.9, "momentum": 0.5}, {"alpha": 0.9, "momentum": 0.5}),
]


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("ours, theirs, settings, their_settings", CASES)
def test_equals_torch(ours, theirs, settings, their_settings, decay):
    torch = pytest.importorskip("torch")
    parameters = make_parameters()
    copies = {name: torch.nn.Parameter(torch.tensor(p.numpy().copy())) for name, p in parameters.items()}
    groups = [
        {"params": [copies[name]], "weight_decay": decay if has_weight_decay(name, parameter) else 0.0}
        for name, parameter in parameters.items()
    ]
    their_optimizer = getattr(torch.optim, theirs)(groups, lr=0.01, **their_settings)
    optimizer = ours(parameters.items(), learning_rate=0.01, weight_decay=decay, **settings)
    for step in range(20):
        gradients = set_gradients(parameters, step)
        for name, copy in copies.items():
            copy.grad = torch.tensor(gradients[name])
        rate = 0.01 / (1 + step)
        for group in their_optimizer.param_groups:
            group["lr"] = rate
        their_optimizer.step()
        optimizer.step(rate)
    for name, parameter in parameters.items():
        theirs_now = copies[name].detach().numpy()
        np.testing.assert_allclose(parameter.numpy(), theirs_now, rtol=1e-6, atol=1e-6, err_msg=name)


def test_clipping_equals_torch():
    torch = pytest.importorskip("torch")
    parameters = make_parameters()
    copies = {name: torch.nn.Parameter(torch.tensor(p.numpy().copy())) for name, p in parameters.items()}
    theirs = torch.optim.SGD(copies.values(), lr=1.0)
    optimizer = SGD(parameters.items(), learning_rate=1.0)
    for step, scale in enumerate((1e-3, 1.0, 1e3)):
        gradients = set_gradients(parameters, step, scale)
        for name, copy in copies.items():
            copy.grad = torch.tensor(gradients[name])
        expected = torch.nn.utils.clip_grad_norm_(copies.values(), 1.0).item()
        theirs.step()
        norm = optimizer.grad_norm()
        assert norm.item() == pytest.approx(expected, rel=1e-6)
        optimizer.step(1.0, _core.clip_factor(norm, 1.0))
    for name, parameter in parameters.items():
        np.testing.assert_allclose(parameter.numpy(), copies[name].detach().numpy(), rtol=1e-6, atol=1e-6)


def test_parameters_and_gradients_become_views_of_two_buffers():
    parameters = make_parameters()
    before = {name: parameter.numpy().copy() for name, parameter in parameters.items()}
    optimizer = AdamW([*parameters.items(), ("lm_head.weight", parameters["wte.weight"])], weight_decay=0.1)
    decayed = {name: group.weight_decay for group in optimizer.groups for name in group.names}
    assert decayed == {name: 0.1 if name in ("h.0.fc.weight", "odd") else 0.0 for name in SHAPES}
    for group in optimizer.groups:
        for index, (name, parameter) in enumerate(zip(group.names, group.parameters, strict=True)):
            np.testing.assert_array_equal(parameter.numpy(), before[name])
            group.view(group.data, index).fill_(3.0)
            assert (parameter.numpy() == 3.0).all()
            parameter.grad.fill_(2.0)
            assert (group.view(group.grads, index).numpy() == 2.0).all()
            assert (parameter.data.data_ptr - group.data.data_ptr) % 64 == 0
    optimizer.zero_grad()
    assert all((parameter.grad.numpy() == 0).all() for parameter in parameters.values())


def test_a_parameter_without_a_gradient_since_zero_grad_counts_as_zero():
    """zero_grad leaves the memory alone: what is in it must reach neither the norm nor the update."""
    parameters = make_parameters()
    optimizer = SGD(parameters.items(), learning_rate=1.0)
    set_gradients(parameters, 1)
    optimizer.zero_grad()
    parameters["odd"].grad_as_buffer().fill_(3.0)
    before = {name: parameter.numpy().copy() for name, parameter in parameters.items()}
    assert optimizer.grad_norm().item() == 3.0
    optimizer.step()
    for name, parameter in parameters.items():
        np.testing.assert_array_equal(parameter.numpy(), before[name] - (3.0 if name == "odd" else 0.0))


def test_the_parameters_old_memory_is_given_back():
    """A model of 8 MB and its optimizer: never more than weights, gradients, moments and one parameter twice."""
    parameters = {f"w{index}": Tensor(_core.zeros((512, 1024)), requires_grad=True) for index in range(4)}
    _core.empty_cache()
    before = _core.memory_stats("cpu")["reserved"]
    optimizer = AdamW(parameters.items(), dtype=BF16)
    grown = _core.memory_stats("cpu")["reserved"] - before
    assert optimizer.groups[0].master is not None
    numbers, added = 2 << 20, 2 + 4 + 4 + 4 + 4 - 4  # bytes of each: bf16 weight, float gradient ... less the old one
    assert grown == pytest.approx(added * numbers, abs=4096)


def test_replaced_tensors_are_taken_over():
    """What a module replaces in `load_state_dict` or `zero_grad` must not leave the optimizer with the old tensors."""
    parameters = make_parameters()
    optimizer = SGD(parameters.items(), learning_rate=1.0)
    parameters["odd"].data = _core.from_numpy(np.full((1, 1), 10.0, np.float32))
    parameters["odd"].grad = _core.from_numpy(np.full((1, 1), 4.0, np.float32))
    parameters["wte.weight"].grad = None
    kept = parameters["wte.weight"].numpy().copy()
    assert optimizer.grad_norm().item() == 4.0
    optimizer.step()
    assert parameters["odd"].item() == 6.0
    np.testing.assert_array_equal(parameters["wte.weight"].numpy(), kept)
    assert parameters["odd"].data.data_ptr in {
        group.view(group.data, index).data_ptr for group in optimizer.groups for index in range(len(group.names))
    }


def test_bf16_parameters_are_rounded_masters():
    reference, parameters = make_parameters(), make_parameters(dtype=BF16)
    for name, parameter in parameters.items():
        reference[name].data.copy_(parameter.data)  # both start from the rounded values
    expected, optimizer = AdamW(reference.items()), AdamW(parameters.items())
    for step in range(50):
        set_gradients(reference, step)
        set_gradients(parameters, step)
        expected.step(1e-4)  # far below half a unit in the last place: without masters nothing would move
        optimizer.step(1e-4)
    for name, parameter in parameters.items():
        np.testing.assert_array_equal(parameter.numpy(), reference[name].data.cast(BF16).numpy())
    moved = optimizer.state_dict()["h.0.fc.weight.master"]
    np.testing.assert_array_equal(moved, reference["h.0.fc.weight"].numpy())


def test_float32_model_is_converted_and_frozen_parameters_too():
    parameters = make_parameters()
    parameters["odd"].requires_grad = False
    optimizer = AdamW(parameters.items(), dtype=BF16)
    assert all(parameter.dtype == BF16 for parameter in parameters.values())
    assert "odd" not in {name for group in optimizer.groups for name in group.names}


@pytest.mark.parametrize("dtype", [None, BF16])
@pytest.mark.parametrize("ours, settings", [(AdamW, {}), (SGD, {"momentum": 0.9}), (RMSprop, {"momentum": 0.9})])
def test_state_is_exact_and_by_name(ours, settings, dtype):
    parameters = make_parameters(dtype=dtype)
    optimizer = ours(parameters.items(), **settings)
    for step in range(3):
        set_gradients(parameters, step)
        optimizer.step()
    state, weights = optimizer.state_dict(), {name: p.numpy().copy() for name, p in parameters.items()}
    other = dict(reversed(make_parameters(seed=9, dtype=dtype).items()))  # in another order
    for name, parameter in other.items():
        parameter.data.copy_(_core.from_numpy(weights[name]))
    restored = ours(other.items(), **settings)
    restored.load_state_dict(state, steps=optimizer.steps)
    for step in range(3, 6):
        for current, its_parameters in ((optimizer, parameters), (restored, other)):
            set_gradients(its_parameters, step)
            current.step()
    assert restored.steps == optimizer.steps == 6
    for name in SHAPES:
        np.testing.assert_array_equal(other[name].numpy(), parameters[name].numpy())
    for name, array in optimizer.state_dict().items():
        np.testing.assert_array_equal(restored.state_dict()[name], array)


def test_state_that_does_not_fit_is_refused_by_name():
    optimizer = AdamW(make_parameters().items())
    state = optimizer.state_dict()
    missing = {name: array for name, array in state.items() if name != "odd.exp_avg"}
    with pytest.raises(CheckpointError, match="lacks 'odd.exp_avg'"):
        optimizer.load_state_dict(missing, 1)
    with pytest.raises(CheckpointError, match="'odd.exp_avg' has shape"):
        optimizer.load_state_dict({**state, "odd.exp_avg": np.zeros(3)}, 1)
    with pytest.raises(CheckpointError, match="'more.exp_avg' belongs to no parameter"):
        optimizer.load_state_dict({**state, "more.exp_avg": np.zeros(3)}, 1)


def test_masters_follow_weights_that_were_loaded():
    parameters = make_parameters(dtype=BF16)
    optimizer = AdamW(parameters.items())
    for parameter in parameters.values():
        parameter.data.fill_(2.0)
    optimizer.refresh_masters()
    assert (optimizer.state_dict()["odd.master"] == 2.0).all()


def test_create_optimizer_reads_the_arguments():
    args = TrainingArguments(optim="sgd", optim_args="momentum=0.9, nesterov=true", weight_decay=0.2, learning_rate=3.0)
    optimizer = create_optimizer(type("M", (), {"named_parameters": lambda self: make_parameters().items()})(), args)
    assert isinstance(optimizer, SGD) and (optimizer.momentum, optimizer.nesterov) == (0.9, True)
    assert (optimizer.weight_decay, optimizer.learning_rate) == (0.2, 3.0)
    adam = create_optimizer(make_parameters().items(), TrainingArguments(adam_beta2=0.95, adam_epsilon=1e-6))
    assert type(adam) is AdamW and (adam.beta2, adam.epsilon) == (0.95, 1e-6)
    assert set(optim.OPTIMIZERS) == {"adamw", "adam", "sgd", "rmsprop"}


@pytest.mark.parametrize("optim_class", [AdamW, SGD, RMSprop])
def test_stochastic_rounding_needs_no_masters_and_follows_them_in_the_mean(optim_class):
    size = 4000
    results = {}
    for seed in (None, 1, 1, 2):  # None: with masters
        parameters = [("w", tensor(np.ones((2, size // 2), np.float32), BF16, requires_grad=True))]
        parameters.append(("b", tensor(np.ones(size, np.float32), BF16, requires_grad=True)))
        settings = {} if seed is None else {"stochastic_rounding": True, "seed": seed}
        optimizer = optim_class(parameters, learning_rate=2e-4, **settings)
        assert all((group.master is None) == (seed is not None) for group in optimizer.groups)
        for _ in range(20):  # each step is 2e-4, the distance of bfloat16 numbers below 1 is 2^-8
            for _, parameter in parameters:
                parameter.grad_as_buffer().copy_(_core.from_numpy(np.ones(parameter.shape)))
            optimizer.step()
        results.setdefault(seed, []).append([p.numpy().reshape(-1) for _, p in parameters])
        if seed is None:
            expected = {name: array.mean() for name, array in optimizer.state_dict().items() if name.endswith("master")}
    for w, b in (*results[1], *results[2]):
        # 20 roundings, each with a standard deviation of at most half the distance
        limit = 5 * np.sqrt(20) * 2.0**-9 / np.sqrt(size)
        assert abs(w.mean() - expected["w.master"]) < limit and abs(b.mean() - expected["b.master"]) < limit
        assert (w != b).any()  # buffers do not share random numbers
    for one, other in zip(*results[1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert (results[1][0][0] != results[2][0][0]).any()


def test_stochastic_rounding_is_chosen_by_name_and_changes_nothing_in_float32():
    args = TrainingArguments(optim="sgd", optim_args="stochastic_rounding=true", seed=7)
    optimizer = create_optimizer(make_parameters().items(), args)
    assert optimizer.stochastic_rounding and optimizer.seed == 7
    assert all(group.rounding_seed is None and group.master is None for group in optimizer.groups)
    optimizer = create_optimizer(make_parameters(dtype=BF16).items(), args)
    assert [group.rounding_seed for group in optimizer.groups] == [7, 8]


@pytest.mark.parametrize(
    "optim_name, text, message",
    [
        ("adamw", "momentum=0.9", "takes stochastic_rounding; adam_beta1, adam_beta2 and adam_epsilon are settings"),
        ("sgd", "alpha=1", "takes momentum, dampening, nesterov"),
        ("sgd", "momentum=big", "momentum must be a number"),
        ("sgd", "nesterov=true", "nesterov=True needs a momentum"),
    ],
)
def test_optim_args_that_cannot_be_are_sentences(optim_name, text, message):
    with pytest.raises(ConfigError, match=message):
        create_optimizer(make_parameters().items(), TrainingArguments(optim=optim_name, optim_args=text))


def test_a_model_without_trained_parameters_is_refused():
    with pytest.raises(ConfigError, match="no parameter that needs a gradient"):
        AdamW([("frozen", tensor(np.ones(3)))])
