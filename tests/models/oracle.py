"""Models with random weights made by transformers, which the tests compare with, and the comparisons. torch and
transformers are imported when the first model is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcore import _core
from llmcore.optim import AdamW, has_weight_decay

SMALL = dict(vocab_size=211, n_positions=160, n_embd=48, n_layer=3, n_head=4)
NO_DROPOUT = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
NO_SPECIAL_TOKENS = dict(bos_token_id=None, eos_token_id=None, pad_token_id=0)


LLAMA = dict(
    vocab_size=211,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=160,
)


BERT = dict(
    vocab_size=211,
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=80,
    max_position_embeddings=40,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


def save_model(folder: Path, kind: str, config: dict[str, Any], seed: int = 0, std: float = 0.15) -> Any:
    """A model of transformers, `transformers.<kind>`, in evaluation mode, saved to `folder`.

    `std` is that of the weights: at the published 0.02 an untrained model repeats one token for ever, at 0.15 greedy
    text has some variety. Biases and norms are random too, so that none can be forgotten.
    """
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model_class = getattr(transformers, kind)
    model = model_class(model_class.config_class(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, std)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.eval()
    model.save_pretrained(folder)
    return model


def save_gpt2(folder: Path, seed: int = 0, std: float = 0.15, **config: Any) -> Any:
    """A small GPT2LMHeadModel of transformers: see `save_model`."""
    return save_model(folder, "GPT2LMHeadModel", {**SMALL, **NO_DROPOUT, **NO_SPECIAL_TOKENS, **config}, seed, std)


def save_llama(folder: Path, seed: int = 0, std: float = 0.15, **config: Any) -> Any:
    """A small LlamaForCausalLM of transformers: see `save_model`. It has no padding token: PyTorch would not train that
    one's embedding."""
    return save_model(
        folder, "LlamaForCausalLM", {**LLAMA, **NO_SPECIAL_TOKENS, "pad_token_id": None, **config}, seed, std
    )


def save_bert(folder: Path, kind: str = "BertModel", seed: int = 0, std: float = 0.15, **config: Any) -> Any:
    """A small encoder of transformers, `kind`: see `save_model`."""
    return save_model(folder, kind, {**BERT, **config}, seed, std)


def random_ids(B: int, T: int, vocab_size: int = SMALL["vocab_size"], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab_size, (B, T))


def their_logits(model: Any, ids: np.ndarray, **options: Any) -> np.ndarray:
    """Logits (B, T, V), float32."""
    import torch

    with torch.no_grad():
        return model(torch.tensor(np.asarray(ids)), **options).logits.float().numpy()


def losses_of(model: Any, ids: np.ndarray, labels: np.ndarray) -> Any:
    import torch

    return model(torch.tensor(ids), labels=torch.tensor(labels)).loss


def compare_gradients(theirs: Any, ours: Any, tolerance: float) -> None:
    """Relative to each parameter's own gradient. A bias on all keys of a softmax has none but rounding."""
    expected = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    actual = {name: parameter.grad.numpy() for name, parameter in ours.named_parameters()}
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        size = np.linalg.norm(gradient)
        if name.endswith("attention.self.key.bias"):
            assert size < 1e-5 and np.linalg.norm(actual[name]) < 1e-5, name
            continue
        assert size > 0, name
        assert np.linalg.norm(actual[name] - gradient) <= tolerance * size, name
        assert np.abs(actual[name] - gradient).max() <= tolerance * np.abs(gradient).max(), name


def training_losses(
    theirs: Any, ours: Any, decayed_count: int, rate: float = 1e-3, steps: int = 20
) -> tuple[list[float], list[float]]:
    """(PyTorch's, ours): AdamW on the same batches, with clipping and a changing learning rate.

    `decayed_count` is how many matrices weight decay is for.
    """
    import torch

    named = dict(theirs.named_parameters())
    decayed = [parameter for name, parameter in named.items() if has_weight_decay(name, parameter)]
    plain = [parameter for name, parameter in named.items() if not has_weight_decay(name, parameter)]
    assert len(decayed) == decayed_count
    groups = [dict(params=decayed, weight_decay=0.1), dict(params=plain, weight_decay=0.0)]
    settings = dict(betas=(0.9, 0.95), eps=1e-8)
    optimizer = torch.optim.AdamW(groups, lr=rate, **settings)
    ours.train()
    our_optimizer = AdamW(ours, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1)
    expected, actual = [], []
    for step in range(steps):
        ids = random_ids(4, 32, vocab_size=40, seed=step)
        now = rate * (1 + step) / steps
        for group in optimizer.param_groups:
            group["lr"] = now
        loss = losses_of(theirs, ids, ids)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        expected.append(loss.item())

        our_optimizer.zero_grad()
        our_loss = ours(ids, labels=ids, num_items_in_batch=4 * 31).loss
        our_loss.backward()
        our_optimizer.step(now, _core.clip_factor(our_optimizer.grad_norm(), 1.0))
        actual.append(our_loss.item())
    assert expected[-1] < expected[0] - 0.5  # it learns
    return expected, actual
