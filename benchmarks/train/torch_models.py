"""The opponents' models: GPT-2 and BERT in plain PyTorch, as one would write them today.

One matrix for q, k and v, `scaled_dot_product_attention`, `F.gelu`, `F.cross_entropy`, the head tied to the embedding.
The names are those of GPT-2's published weights; `load` puts the weights of a folder in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.train.workloads import IGNORE, Workload


class Block(nn.Module):
    """Attention and MLP, each with a norm: before it (GPT-2) or after the residual addition (BERT)."""

    def __init__(self, width: int, heads: int, causal: bool, epsilon: float, gelu: str) -> None:
        super().__init__()
        self.heads, self.causal, self.gelu = heads, causal, gelu
        self.ln_1 = nn.LayerNorm(width, epsilon)
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width, epsilon)
        self.mlp_fc = nn.Linear(width, 4 * width)
        self.mlp_proj = nn.Linear(4 * width, width)

    def attention(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, self.heads, C // self.heads).transpose(1, 2)  # (B, NH, T, HS)
            for part in self.c_attn(x).split(C, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))

    def mlp(self, x: Tensor) -> Tensor:
        return self.mlp_proj(F.gelu(self.mlp_fc(x), approximate=self.gelu))


class PreNormBlock(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class PostNormBlock(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.ln_1(x + self.attention(x))
        return self.ln_2(x + self.mlp(x))


class GPT2(nn.Module):
    """Returns the mean loss of next-token prediction."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        C = workload.width
        self.wte = nn.Embedding(workload.vocabulary, C)
        self.wpe = nn.Embedding(workload.positions, C)
        self.h = nn.ModuleList(PreNormBlock(C, workload.heads, True, 1e-5, "tanh") for _ in range(workload.layers))
        self.ln_f = nn.LayerNorm(C, 1e-5)
        self.lm_head = nn.Linear(C, workload.vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))  # (B, T, V)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1), ignore_index=IGNORE)


class BertMaskedLM(nn.Module):
    """Returns the mean loss at the masked places; scores are computed everywhere, as in transformers."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        C = workload.width
        self.wte = nn.Embedding(workload.vocabulary, C)
        self.wpe = nn.Embedding(workload.positions, C)
        self.embed_types = nn.Embedding(2, C)
        self.ln_0 = nn.LayerNorm(C, 1e-12)
        self.h = nn.ModuleList(PostNormBlock(C, workload.heads, False, 1e-12, "none") for _ in range(workload.layers))
        self.transform = nn.Linear(C, C)
        self.ln_f = nn.LayerNorm(C, 1e-12)
        self.lm_head = nn.Linear(C, workload.vocabulary)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1])) + self.embed_types(torch.zeros_like(ids))
        x = self.ln_0(x)
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(F.gelu(self.transform(x))))  # (B, T, V)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1), ignore_index=IGNORE)


def build(workload: Workload) -> nn.Module:
    """The model with random weights."""
    torch.manual_seed(1)
    model = BertMaskedLM(workload) if workload.architecture == "bert" else GPT2(workload)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, 0.0, 0.02)
    return model


def load(model: nn.Module, workload: Workload, folder: Path) -> None:
    """Copies the weights of a folder in the Hugging Face layout into the model; all of them, and nothing else."""
    from safetensors.numpy import load_file

    source = load_file(folder / "model.safetensors")
    weights = _bert_weights(source, workload) if workload.architecture == "bert" else _gpt2_weights(source, workload)
    weights["lm_head.weight"] = weights["wte.weight"]
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in weights.items()})


def _gpt2_weights(source: dict[str, Any], workload: Workload) -> dict[str, np.ndarray]:
    """GPT-2's files store matrices as (in, out), torch as (out, in)."""
    weights = {f"{name}.weight": source[f"transformer.{name}.weight"] for name in ("wte", "wpe", "ln_f")}
    weights["ln_f.bias"] = source["transformer.ln_f.bias"]
    names = {
        "ln_1": "ln_1",
        "attn.c_attn": "c_attn",
        "attn.c_proj": "c_proj",
        "ln_2": "ln_2",
        "mlp.c_fc": "mlp_fc",
        "mlp.c_proj": "mlp_proj",
    }
    for layer in range(workload.layers):
        for theirs, ours in names.items():
            weights[f"h.{layer}.{ours}.weight"] = source[f"transformer.h.{layer}.{theirs}.weight"].T
            weights[f"h.{layer}.{ours}.bias"] = source[f"transformer.h.{layer}.{theirs}.bias"]
    return weights


def _bert_weights(source: dict[str, Any], workload: Workload) -> dict[str, np.ndarray]:
    embeddings, head = "bert.embeddings", "cls.predictions"
    weights = {
        "wte.weight": source[f"{embeddings}.word_embeddings.weight"],
        "wpe.weight": source[f"{embeddings}.position_embeddings.weight"],
        "embed_types.weight": source[f"{embeddings}.token_type_embeddings.weight"],
        "lm_head.bias": source[f"{head}.bias"],
    }
    names = {"ln_0": f"{embeddings}.LayerNorm", "transform": f"{head}.transform.dense"}
    names["ln_f"] = f"{head}.transform.LayerNorm"
    for layer in range(workload.layers):
        theirs = f"bert.encoder.layer.{layer}"
        names[f"h.{layer}.c_proj"] = f"{theirs}.attention.output.dense"
        names[f"h.{layer}.ln_1"] = f"{theirs}.attention.output.LayerNorm"
        names[f"h.{layer}.mlp_fc"] = f"{theirs}.intermediate.dense"
        names[f"h.{layer}.mlp_proj"] = f"{theirs}.output.dense"
        names[f"h.{layer}.ln_2"] = f"{theirs}.output.LayerNorm"
    for kind in ("weight", "bias"):
        weights |= {f"{ours}.{kind}": source[f"{theirs}.{kind}"] for ours, theirs in names.items()}
        for layer in range(workload.layers):
            prefix = f"bert.encoder.layer.{layer}.attention.self"
            parts = [source[f"{prefix}.{part}.{kind}"] for part in ("query", "key", "value")]
            weights[f"h.{layer}.c_attn.{kind}"] = np.concatenate(parts)
    return weights
