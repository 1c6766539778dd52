"""The rules for rotary frequencies against transformers' own functions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llmcore.errors import ConfigError
from llmcore.models.rope import RotaryTables, rope_frequencies, standard_rope_parameters

LLAMA31 = dict(rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
CASES: dict[str, dict[str, Any]] = {
    "default": dict(rope_theta=1e5),
    "linear": dict(rope_type="linear", factor=2.5),
    "dynamic": dict(rope_type="dynamic", factor=4.0),
    "llama3": dict(rope_type="llama3", original_max_position_embeddings=8192, **LLAMA31),
    "yarn": dict(rope_type="yarn", factor=16.0, original_max_position_embeddings=512),
    "yarn, not truncated": dict(rope_type="yarn", factor=4.0, beta_fast=16, beta_slow=2, truncate=False),
    "yarn, factor given": dict(rope_type="yarn", factor=4.0, attention_factor=0.7),
    "yarn, mscale": dict(rope_type="yarn", factor=40.0, mscale=1.0, mscale_all_dim=0.5),
}
LIMIT = 2048


@pytest.mark.parametrize("R", [64, 10, 128])
@pytest.mark.parametrize("name", CASES)
def test_frequencies_are_those_of_transformers(name, R):
    pytest.importorskip("torch")
    rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    parameters = standard_rope_parameters(CASES[name], LIMIT)
    config = SimpleNamespace(
        rope_parameters=parameters,
        head_dim=R,
        hidden_size=4 * R,
        num_attention_heads=4,
        max_position_embeddings=LIMIT,
        standardize_rope_params=lambda: None,
    )
    rule = rope_utils.ROPE_INIT_FUNCTIONS.get(
        parameters["rope_type"], llama.LlamaRotaryEmbedding.compute_default_rope_parameters
    )
    for length in (1, LIMIT, 3 * LIMIT):
        frequencies, factor = rule(config, seq_len=length)
        ours, our_factor = rope_frequencies(parameters, R, LIMIT, length)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, frequencies.numpy(), rtol=5e-7)
        assert our_factor == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("name", ["default", "dynamic", "yarn"])
def test_tables_are_the_same_however_they_grew(name):
    parameters = standard_rope_parameters(CASES[name], LIMIT)
    whole = [table.numpy() for table in RotaryTables(parameters, 8, LIMIT)(LIMIT)]
    growing = RotaryTables(parameters, 8, LIMIT)
    for length in (0, 1, 300, 299, LIMIT, 5):
        for table, expected in zip(growing(length), whole, strict=True):
            assert table.shape[0] >= length and table.shape[1] == 4
            np.testing.assert_array_equal(table.numpy(), expected[: table.shape[0]])


def test_dynamic_tables_follow_the_length_and_come_back():
    tables = RotaryTables(standard_rope_parameters(CASES["dynamic"], 32), 8, 32)
    short, longer, longest = (tables(length)[0].numpy().copy() for length in (32, 40, 64))
    np.testing.assert_array_equal(short[0], longer[0])
    assert np.abs(short[31] - longer[31]).max() > 0.1 and np.abs(longer[39] - longest[39]).max() > 0.1
    np.testing.assert_array_equal(tables(32)[0].numpy(), short)


def test_bad_parameters_are_refused():
    for parameters, message in [
        (dict(rope_type="longrope"), "rope_type must be one of default, linear, dynamic, llama3, yarn, got 'longrope'"),
        (dict(type="linear"), "'linear' needs 'factor'"),
        (dict(rope_type="default", factor=2.0), "'default' has no 'factor'"),
        (dict(rope_type="linear", factor=0), "factor must be a number above 0, got 0"),
        (dict(rope_theta="big"), "rope_theta must be a number above 0, got 'big'"),
        (dict(partial_rotary_factor=0.5), "'default' has no 'partial_rotary_factor'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            standard_rope_parameters(parameters, LIMIT)
