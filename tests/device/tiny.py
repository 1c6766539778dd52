"""Models and data so small that an emulated GPU trains on them in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import llmcore
from llmcore import _core
from llmcore.data.loader import BlockDataset
from llmcore.training.arguments import TrainingArguments
from llmcore.training.trainer import Trainer

VOCABULARY, LENGTH = 29, 8
FLOAT32, BFLOAT16 = _core.DType.float32, _core.DType.bfloat16


def gpt2(
    dropout: float = 0.0, seed: int = 1, dtype: _core.DType = FLOAT32, device: str = "cpu", std: float = 0.2
) -> Any:
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    config = llmcore.GPT2Config(vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=2, n_head=2, **drops)
    config = config.replace(bos_token_id=None, eos_token_id=None, initializer_range=std)
    return llmcore.GPT2LMHeadModel(config, seed=seed, dtype=dtype, device=device)


def llama(device: str = "cpu") -> Any:
    sizes = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4)
    config = llmcore.LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=16, **sizes)
    config = config.replace(bos_token_id=None, eos_token_id=None, initializer_range=0.2)
    return llmcore.LlamaForCausalLM(config, seed=1, device=device)


def bert(model_class: Any, device: str = "cpu", **changes: Any) -> Any:
    sizes = dict(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, initializer_range=0.2
    )
    drops = dict(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    config = llmcore.BertConfig(vocab_size=VOCABULARY, max_position_embeddings=16, **{**sizes, **drops, **changes})
    return model_class(config, seed=1, device=device)


def random_ids(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, shape).astype(np.int32)


class Stream:
    """Tokens of which each follows from the one before: there is something to learn."""

    def __init__(self, blocks: int) -> None:
        tokens = [3]
        for _ in range(blocks * (LENGTH - 1)):
            tokens.append((5 * tokens[-1] + 7) % VOCABULARY)
        self.tokens = np.array(tokens, np.int32)

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, start: int, count: int) -> np.ndarray:
        return self.tokens[start : start + count]


def trainer_of(folder: Path, model: Any, blocks: int = 40, **settings: Any) -> Trainer:
    """float32, two rows of eight tokens, whatever `settings` do not change."""
    defaults = dict(per_device_train_batch_size=2, learning_rate=1e-2, plot_loss="no", bf16=False, save_strategy="no")
    arguments = TrainingArguments(str(folder), **{**defaults, **settings})
    return Trainer(model, arguments, train_dataset=BlockDataset([Stream(blocks)], LENGTH))


def gradients_of(model: Any, **inputs: Any) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients by name of one step in training mode, dropout of step 3."""
    model.train()
    model.generator.step = 3
    loss = model(**inputs).loss
    loss.backward()
    return loss.item(), {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_step(here: Any, there: Any, rtol: float = 2e-5, **inputs: Any) -> None:
    """Loss and every gradient of a model on the CPU and of one on a GPU agree, relative to the largest gradient."""
    loss, expected = gradients_of(here, **inputs)
    found_loss, found = gradients_of(there, **inputs)
    assert abs(found_loss - loss) <= rtol * abs(loss)
    assert found.keys() == expected.keys() and len(found) > 5
    for name, gradient in expected.items():
        scale = max(np.abs(gradient).max(), 1e-3)
        np.testing.assert_allclose(found[name] / scale, gradient / scale, atol=10 * rtol, err_msg=name)
