"""Packed rows: every document is computed as if it were alone, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest

import llmcore
from llmcore.data.packing import pack_documents
from llmcore.errors import DataError
from llmcore.models.packed import find_documents

SIZES = dict(vocab_size=29)
MODELS = {
    "gpt2": lambda: llmcore.GPT2LMHeadModel(
        llmcore.GPT2Config(
            n_positions=32, n_embd=24, n_layer=2, n_head=3, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **SIZES
        )
    ),
    "llama": lambda: llmcore.LlamaForCausalLM(
        llmcore.LlamaConfig(
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            **SIZES,
        )
    ),
}


def documents(lengths=(5, 1, 9, 3, 7, 2, 12, 40), seed=0) -> list[tuple[list[int], list[int]]]:
    random = np.random.default_rng(seed)
    rows = [random.integers(0, 29, length).tolist() for length in lengths]
    return [(row, list(row)) for row in rows]


def gradients(model) -> dict[str, np.ndarray]:
    return {name: parameter.grad.numpy().copy() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", MODELS)
def test_documents_do_not_see_one_another(name):
    """Loss and gradients of packed rows are the sums over the documents one by one; packed rows are padded, too."""
    model, pieces = MODELS[name](), documents((5, 9, 3, 7, 2, 12))
    rows, _ = pack_documents(pieces, 16)
    length = max(len(row["input_ids"]) for row in rows)
    assert {len(row["input_ids"]) for row in rows} != {length}
    batch = {column: [row[column] + [0] * (length - len(row[column])) for row in rows] for column in rows[0]}
    batch["attention_mask"] = [[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in rows]
    for labels, mask in zip(batch["labels"], batch["attention_mask"], strict=True):
        labels[:] = [label if real else -100 for label, real in zip(labels, mask, strict=True)]
    trained = sum(len(ids) - 1 for ids, _ in pieces)
    packed = model(**batch, num_items_in_batch=trained).loss
    packed.backward()
    found, total = gradients(model), 0.0
    model.zero_grad()
    for ids, labels in pieces:
        loss = model([ids], labels=[labels], num_items_in_batch=trained).loss
        loss.backward()
        total += loss.item()
    assert packed.item() == pytest.approx(total, rel=1e-5)
    for name, expected in gradients(model).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)


def test_what_marks_a_document():
    assert find_documents(np.array([[0, 1, 2, 3]]), None) is None
    assert find_documents(np.array([[2, 3, 4, 0]]), None) is None  # does not begin at 0: positions of another kind
    assert find_documents(np.array([[0, 1, 0, 0]]), np.array([[1, 1, 0, 0]])) is None  # padding is no document
    found = find_documents(np.array([[0, 1, 0, 1], [0, 1, 2, 0]]), None)
    assert found is not None and sum(lengths.numel for _, lengths in found.groups) == 4


def test_packing_is_dense_and_loses_nothing():
    pieces = documents(seed=1)
    rows, cut = pack_documents(pieces, 16)
    assert cut == 1  # the one of 40 tokens
    kept = sorted(token for row in rows for token in row["input_ids"])
    assert kept == sorted(token for ids, _ in pieces if len(ids) > 1 for token in ids)
    assert all(len(row["input_ids"]) <= 16 for row in rows) and len(rows) == 5  # 78 tokens
    for row in rows:
        first = [label for label, position in zip(row["labels"], row["position_ids"], strict=True) if position == 0]
        assert set(first) == {-100}
    assert rows == pack_documents(pieces, 16)[0]
    with pytest.raises(DataError, match="two tokens or more"):
        pack_documents([([1], [1])], 16)
