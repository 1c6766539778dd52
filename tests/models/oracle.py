"""GPT-2 with random weights made by transformers, which the tests compare with. torch and transformers are imported
when the first model is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

SMALL = dict(vocab_size=211, n_positions=160, n_embd=48, n_layer=3, n_head=4)
NO_DROPOUT = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
NO_SPECIAL_TOKENS = dict(bos_token_id=None, eos_token_id=None, pad_token_id=0)


def save_gpt2(folder: Path, seed: int = 0, std: float = 0.15, **config: Any) -> Any:
    """A GPT2LMHeadModel of transformers in evaluation mode, saved to `folder`.

    `std` is that of the weights: at GPT-2's own 0.02 an untrained model repeats one token for ever, at 0.15 greedy text
    has some variety. Biases and norms are random too, so that none can be forgotten.
    """
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**{**SMALL, **NO_DROPOUT, **NO_SPECIAL_TOKENS, **config})
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, std)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.eval()
    model.save_pretrained(folder)
    return model


def random_ids(B: int, T: int, vocab_size: int = SMALL["vocab_size"], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab_size, (B, T))


def their_logits(model: Any, ids: np.ndarray, **options: Any) -> np.ndarray:
    """Logits (B, T, V), float32."""
    import torch

    with torch.no_grad():
        return model(torch.tensor(np.asarray(ids)), **options).logits.float().numpy()
