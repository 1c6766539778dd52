"""The names that scripts import from the package itself."""

from __future__ import annotations

import pytest

import llmcore
from llmcore import errors, models, optim


def test_every_public_name_resolves():
    for name in llmcore.__all__:
        assert getattr(llmcore, name) is not None and name in dir(llmcore)
    with pytest.raises(AttributeError, match="no attribute 'Trainr'"):
        llmcore.Trainr  # noqa: B018


def test_what_exists_under_a_name_of_transformers_is_exported():
    """A model, an optimizer or an exception that is added is public only if it can be imported from the top."""
    made_here = {
        name
        for module in (errors, models, optim)
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__.startswith(module.__name__) and not name.startswith("_")
    }
    assert made_here - {"FlatGroup", "Optimizer"} <= set(llmcore.__all__)
    names = "TrainerState TrainerControl EvalPrediction default_data_collator NonFiniteError PRESETS perplexity"
    assert set(names.split()) <= set(llmcore.__all__)
