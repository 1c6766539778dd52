"""BERT against transformers and PyTorch: hidden states, logits, losses, gradients, a training run, files.

Ids start at 1: PyTorch does not train the embedding of the padding token, 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmcore
from llmcore import _core
from llmcore.models import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertModel,
)
from llmcore.optim import AdamW
from tests.models.oracle import BERT, compare_gradients, save_bert

B, T = 4, 19
MASK = (np.arange(T) < np.array([[19], [11], [1], [7]])).astype(np.int64)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "odd sizes": dict(hidden_size=42, intermediate_size=77, num_attention_heads=3, num_hidden_layers=2),
    "tanh gelu": dict(hidden_act="gelu_new"),
    "relu": dict(hidden_act="relu"),
    "large epsilon, 3 types": dict(layer_norm_eps=1e-2, type_vocab_size=3),
}


def some_batch(config: Any, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "input_ids": rng.integers(1, config.vocab_size, (B, T)) * MASK,
        "attention_mask": MASK,
        "token_type_ids": rng.integers(0, config.type_vocab_size, (B, T)),
    }


def as_torch(batch: dict[str, np.ndarray]) -> dict[str, Any]:
    import torch

    return {name: torch.tensor(array) for name, array in batch.items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_hidden_states(tmp_path, name):
    import torch

    theirs = save_bert(tmp_path, **VARIANTS[name])
    ours = AutoModel.from_pretrained(tmp_path).eval()
    batch = some_batch(theirs.config)
    batch["position_ids"] = np.random.default_rng(9).integers(0, BERT["max_position_embeddings"], (B, T))
    for drop in ((), ("position_ids",), ("token_type_ids",), ("attention_mask",)):
        given = {key: value for key, value in batch.items() if key not in drop}
        with torch.no_grad():
            expected = theirs(**as_torch(given), output_hidden_states=True)
        with llmcore.no_grad():
            actual = ours(**given, output_hidden_states=True)
        assert len(actual.hidden_states) == len(expected.hidden_states)
        for mine, other in zip(actual.hidden_states, expected.hidden_states, strict=True):
            np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(actual.pooler_output.numpy(), expected.pooler_output.numpy(), rtol=0, atol=1e-4)


def masked_labels(batch: dict[str, np.ndarray]) -> np.ndarray:
    chosen = (np.random.default_rng(5).random((B, T)) < 0.3) & (MASK == 1)
    return np.where(chosen, batch["input_ids"], -100)


def labels_of(task: str, batch: dict[str, np.ndarray], seed: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if task == "masked words":
        return masked_labels(batch)
    if task == "tokens":
        return np.where(MASK == 1, rng.integers(0, 5, (B, T)), -100)
    if task == "classes":
        return rng.integers(0, 3, B)
    if task == "one number":
        return rng.standard_normal(B).astype(np.float32)
    if task == "two numbers":
        return rng.standard_normal((B, 2)).astype(np.float32)
    return rng.integers(0, 2, (B, 4)).astype(np.float32)  # several labels


SEQUENCE = ("BertForSequenceClassification", AutoModelForSequenceClassification)
TASKS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "masked words": ("BertForMaskedLM", AutoModelForMaskedLM, {}),
    "classes": (*SEQUENCE, dict(num_labels=3)),
    "one number": (*SEQUENCE, dict(num_labels=1)),
    "two numbers": (*SEQUENCE, dict(num_labels=2, problem_type="regression")),
    "several labels": (*SEQUENCE, dict(num_labels=4)),
    "tokens": ("BertForTokenClassification", AutoModelForTokenClassification, dict(num_labels=5)),
}


@pytest.mark.parametrize("task", TASKS)
def test_logits_loss_and_gradients(tmp_path, task):
    import torch

    kind, auto, config = TASKS[task]
    theirs = save_bert(tmp_path, kind, **config)
    ours = auto.from_pretrained(tmp_path)
    assert type(ours).__name__ == kind
    batch = some_batch(theirs.config)
    with torch.no_grad():
        expected = theirs(**as_torch(batch)).logits.numpy()
    with llmcore.no_grad():
        np.testing.assert_allclose(ours(**batch).logits.numpy(), expected, rtol=0, atol=1e-4)
    labels = labels_of(task, batch)
    loss = theirs(**as_torch(batch), labels=torch.tensor(labels)).loss
    loss.backward()
    ours.train()
    ours.activation_checkpointing = task == "tokens"
    result = ours(**batch, labels=labels)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(loss.item(), abs=1e-4)
    compare_gradients(theirs, ours, 1e-3)


def test_masked_words_and_all_logits_in_one_call(tmp_path):
    save_bert(tmp_path, "BertForMaskedLM")
    ours = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    batch = some_batch(ours.config)
    with llmcore.no_grad():
        both = ours(**batch, labels=masked_labels(batch), return_logits=True)
        assert ours(**batch, labels=masked_labels(batch)).logits is None
        np.testing.assert_array_equal(both.logits.numpy(), ours(**batch).logits.numpy())


def test_twenty_adamw_steps(tmp_path):
    import torch

    theirs = save_bert(tmp_path, "BertForSequenceClassification", num_labels=3)
    ours = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    ours.train()
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=0.0)
    our_optimizer = AdamW(ours, weight_decay=0.0)
    expected, actual = [], []
    for step in range(20):
        batch = some_batch(theirs.config, seed=step % 4)
        labels = labels_of("classes", batch, seed=step % 4)
        loss = theirs(**as_torch(batch), labels=torch.tensor(labels)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
        our_optimizer.zero_grad()
        our_loss = ours(**batch, labels=labels).loss
        our_loss.backward()
        our_optimizer.step(1e-3)
        actual.append(our_loss.item())
    assert np.mean(expected[-4:]) < np.mean(expected[:4]) - 0.5  # it learns
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def sentence_transformers_embeddings(theirs: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    """Mean pooling as on the published encoders' model cards."""
    import torch

    with torch.no_grad():
        states = theirs(**as_torch(batch)).last_hidden_state
        weights = torch.tensor(batch["attention_mask"])[..., None].float()
        pooled = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(pooled, p=2, dim=1).numpy()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sentence_embeddings(tmp_path, dtype):
    theirs = save_bert(tmp_path)
    ours = BertModel.from_pretrained(tmp_path, dtype=getattr(llmcore, dtype)).eval()
    batch = some_batch(theirs.config)
    expected = sentence_transformers_embeddings(theirs, batch)
    actual = ours.sentence_embeddings(**batch)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=1e-4 if dtype == "float32" else 2e-2)
    np.testing.assert_allclose(np.linalg.norm(actual.numpy(), axis=1), 1, rtol=1e-5 if dtype == "float32" else 1e-2)
    actual.backward(_core.from_numpy(np.ones(actual.shape), actual.dtype))
    gradient = ours.encoder.layer[0].output.dense.weight.grad.numpy()
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.parametrize("task", TASKS)
def test_what_we_save_loads_in_transformers(tmp_path, task):
    import torch
    import transformers

    kind, auto, config = TASKS[task]
    save_bert(tmp_path / "first", kind, **config)
    ours = auto.from_pretrained(tmp_path / "first").eval()
    ours.save_pretrained(tmp_path / "second")
    assert not (tmp_path / "second" / "generation_config.json").exists()
    theirs, report = getattr(transformers, auto.__name__).from_pretrained(tmp_path / "second", output_loading_info=True)
    assert type(theirs).__name__ == kind and theirs.config.num_labels == config.get("num_labels", 2)
    assert theirs.config.problem_type == config.get("problem_type")
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    batch = some_batch(ours.config)
    with torch.no_grad():
        expected = theirs.eval()(**as_torch(batch)).logits.numpy()
    with llmcore.no_grad():
        np.testing.assert_allclose(ours(**batch).logits.numpy(), expected, rtol=0, atol=1e-4)


def hidden(model: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    with llmcore.no_grad():
        return model(**batch).last_hidden_state.numpy()


def test_an_encoder_of_any_file_goes_into_any_model(tmp_path):
    """The published encoder starts a classifier, a classifier gives its encoder; norms may be called gamma and beta."""
    torch = pytest.importorskip("torch")
    from llmcore import tensor_file

    theirs = save_bert(tmp_path / "base", seed=3)
    batch = some_batch(theirs.config)
    with torch.no_grad():
        expected = theirs(**as_torch(batch)).last_hidden_state.numpy()

    path = Path(tmp_path / "base" / "model.safetensors")
    weights = tensor_file.read_tensors(path)
    old = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
           for n, v in weights.items()}  # fmt: skip
    path.unlink()
    tensor_file.write_tensors(path, {**old, "embeddings.position_ids": np.zeros((1, 40), np.int64)})
    with pytest.warns(UserWarning, match="no weights for classifier.weight, classifier.bias: they start at random"):
        classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3).eval()
    np.testing.assert_allclose(hidden(classifier.bert, batch), expected, rtol=0, atol=1e-4)
    fresh = type(classifier)(classifier.config)
    np.testing.assert_array_equal(classifier.classifier.weight.numpy(), fresh.classifier.weight.numpy())

    classifier.save_pretrained(tmp_path / "classifier")
    np.testing.assert_allclose(
        hidden(BertModel.from_pretrained(tmp_path / "classifier").eval(), batch), expected, atol=1e-4
    )
    with pytest.warns(UserWarning, match="cls.predictions.bias"):
        words = AutoModelForMaskedLM.from_pretrained(tmp_path / "classifier").eval()
    np.testing.assert_allclose(hidden(words.bert, batch), expected, rtol=0, atol=1e-4)
    assert words.cls.predictions.transform.LayerNorm.weight.numpy().min() == 1
