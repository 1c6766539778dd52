"""The sizes of a configuration, counted against the model that it makes."""

from __future__ import annotations

import pytest

from llmcore.models import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)
from llmcore.optim import has_weight_decay

GPT2 = GPT2Config(vocab_size=50, n_positions=16, n_embd=24, n_layer=3, n_head=2)
LLAMA = LlamaConfig(
    vocab_size=50,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=16,
)
BERT = BertConfig(vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40)


@pytest.mark.parametrize(
    "model_class, config",
    [
        (GPT2LMHeadModel, GPT2),
        (GPT2LMHeadModel, GPT2.replace(n_inner=40)),
        (GPT2LMHeadModel, GPT2.replace(tie_word_embeddings=False)),
        (LlamaForCausalLM, LLAMA),
        (LlamaForCausalLM, LLAMA.replace(tie_word_embeddings=True, head_dim=8)),
        (LlamaForCausalLM, LLAMA.replace(attention_bias=True)),
        (LlamaForCausalLM, LLAMA.replace(mlp_bias=True)),
        (BertForMaskedLM, BERT),
    ],
)
def test_numbers_are_those_of_the_model(model_class, config):
    model, sizes = model_class(config), config.dimensions()
    assert sizes.parameters == model.num_parameters()
    without = sum(p.data.numel for name, p in model.named_parameters() if not has_weight_decay(name, p))
    assert sizes.without_weight_decay == without
    assert (sizes.layers, sizes.width, config.vocab_size) == (3, 24, 50)


@pytest.mark.parametrize("config", [GPT2, LLAMA, BERT])
def test_every_architecture_is_resized_by_the_same_names(config):
    sizes = config.resized(0.25, layers=2, heads=4, width=48, positions=32).dimensions()
    assert (sizes.layers, sizes.heads, sizes.width, sizes.attention_width, sizes.positions) == (2, 4, 48, 48, 32)
    assert all(getattr(config.resized(0.25), name) == 0.25 for name in config.dropout_fields)
    assert config.resized(layers=None) == config


def test_a_llama_keeps_its_proportions():
    wide = LLAMA.resized(width=48, heads=12)
    assert (wide.num_key_value_heads, wide.head_dim, wide.intermediate_size) == (4, 4, 80)
    assert LLAMA.resized(heads=4, width=32).num_key_value_heads == 4  # three cannot share one of four
