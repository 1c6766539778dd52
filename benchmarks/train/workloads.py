"""What is trained: the models, their batches and weights, the same for llmcore and for PyTorch.

Random tokens: the time of a step does not depend on them. No dropout, AdamW as everyone has it, no gradient clipping.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

LEARNING_RATE, BETA1, BETA2, EPSILON, WEIGHT_DECAY = 3e-4, 0.9, 0.95, 1e-8, 0.1
IGNORE = -100  # a label that is not trained on
_BATCHES = 8  # different ones, used in turn
_MASKED, _MASK_TOKEN = 0.15, 103  # BERT's share of predicted tokens, and what stands in their place


@dataclasses.dataclass(frozen=True)
class Workload:
    """One line of the table. `architecture` is "gpt2" or "bert"; width is a multiple of heads.

    `checked_steps` are compared before the clock starts, `rounds` are timed at the least: fewer where a step takes
    10 s.
    """

    architecture: str
    layers: int
    width: int
    heads: int
    positions: int
    vocabulary: int
    batch_size: int
    block_size: int
    checked_steps: int = 4
    rounds: int = 3

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch_size * self.block_size

    def config(self) -> Mapping[str, object]:
        """Fields of transformers' configuration, without dropout."""
        if self.architecture == "bert":
            return {
                "vocab_size": self.vocabulary,
                "hidden_size": self.width,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "intermediate_size": 4 * self.width,
                "max_position_embeddings": self.positions,
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
            }
        return {
            "vocab_size": self.vocabulary,
            "n_embd": self.width,
            "n_layer": self.layers,
            "n_head": self.heads,
            "n_positions": self.positions,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        }

    def batches(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pairs of ids and labels, (B, T) int64 each.

        GPT-2: the label of a position is its own token, which the position before predicts, as in transformers.
        BERT: the label is the token that was there where a mask stands now, and IGNORE elsewhere.
        """
        generator = np.random.default_rng(1)
        shape = (self.batch_size, self.block_size)
        pairs = []
        for _ in range(_BATCHES):
            ids = generator.integers(0, self.vocabulary, shape, dtype=np.int64)
            labels = ids
            if self.architecture == "bert":
                masked = generator.random(shape) < _MASKED
                labels = np.where(masked, ids, IGNORE)
                ids = np.where(masked, _MASK_TOKEN, ids)
            pairs.append((ids, labels))
        return pairs


_GPT2 = Workload("gpt2", 12, 768, 12, 1024, 50257, batch_size=4, block_size=64)
_SMALL = Workload("gpt2", 6, 384, 6, 256, 65, batch_size=16, block_size=256)

WORKLOADS = {
    "gpt2-b4-t64": _GPT2,
    "gpt2-b4-t256": dataclasses.replace(_GPT2, block_size=256),
    "gpt2-b4-t1024": dataclasses.replace(_GPT2, block_size=1024, checked_steps=2, rounds=2),
    "small-v65": _SMALL,
    "small-v4096": dataclasses.replace(_SMALL, vocabulary=4096),
    "tiny": Workload("gpt2", 4, 128, 4, 256, 65, batch_size=8, block_size=64),
    "bert-base": Workload("bert", 12, 768, 12, 512, 30522, batch_size=8, block_size=128),
    # for the test of the benchmark itself: no line of the table
    "smoke": Workload("gpt2", 2, 32, 2, 16, 65, batch_size=2, block_size=16),
    "smoke-bert": Workload("bert", 2, 32, 2, 16, 128, batch_size=2, block_size=16),
}


def write_weights(workload: Workload, folder: Path) -> None:
    """Saves a model of random weights there, in the Hugging Face layout: what every opponent starts from."""
    from llmcore.models import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

    if workload.architecture == "bert":
        BertForMaskedLM(BertConfig(**workload.config()), seed=1).save_pretrained(folder)
    else:
        GPT2LMHeadModel(GPT2Config(**workload.config()), seed=1).save_pretrained(folder)


def decays(name: str, dimensions: int) -> bool:
    """Whether weight decay belongs on a parameter: on matrices, but not on embeddings (llmcore's rule, for both)."""
    return dimensions >= 2 and not any(part in name for part in ("wte", "wpe", "embed"))
