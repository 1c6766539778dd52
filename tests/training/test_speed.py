"""Operations per token."""

from __future__ import annotations

import pytest

from llmcore.models import GPT2Config, GPT2LMHeadModel
from llmcore.training.speed import flops_per_token

from .helpers import BigramForCausalLM


def test_operations_of_a_token():
    config = GPT2Config(vocab_size=100, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    model = GPT2LMHeadModel(config)
    block = 12 * 16 * 16 + 13 * 16  # weights, and biases and norms
    expected = 6 * (2 * block + 2 * 16 + 100 * 16) + 12 * 2 * 16 * 32
    assert flops_per_token(model, 32) == pytest.approx(expected)
    untied = GPT2LMHeadModel(GPT2Config(**{**config.__dict__, "tie_word_embeddings": False}))
    assert flops_per_token(untied, 32) == pytest.approx(expected)
    assert flops_per_token(BigramForCausalLM(), 32) is None
