"""Whole models: loss and gradients of a step, adapters, where tensors lie."""

from __future__ import annotations

import numpy as np
import pytest

import llmcore
from llmcore import LoraConfig, get_peft_model
from llmcore.labels import IGNORE_INDEX

from .tiny import BFLOAT16, FLOAT32, VOCABULARY, assert_same_step, bert, gpt2, llama, random_ids

MASK = np.array([[1] * 8, [1] * 5 + [0] * 3])


def labels_of(ids: np.ndarray, mask: np.ndarray = MASK) -> np.ndarray:
    return np.where(mask == 1, ids, IGNORE_INDEX)


@pytest.mark.parametrize("dtype, rtol", [(FLOAT32, 2e-5), (BFLOAT16, 1e-2)], ids=["float32", "bfloat16"])
def test_gradients_of_gpt2_with_dropout_and_padding(dtype, rtol):
    ids = random_ids(2, 8)
    here, there = (gpt2(0.1, dtype=dtype, device=device) for device in ("cpu", "cuda"))
    assert_same_step(
        here, there, rtol, input_ids=ids, labels=labels_of(ids), attention_mask=MASK, num_items_in_batch=11
    )


def test_gradients_of_gpt2_with_recomputed_blocks_and_packed_documents():
    ids = random_ids(2, 8)
    positions = np.array([[0, 1, 2, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6, 7]])
    here, there = gpt2(0.1), gpt2(0.1, device="cuda")
    for model in (here, there):
        model.gradient_checkpointing_enable()
    assert_same_step(here, there, input_ids=ids, labels=ids, position_ids=positions)


def test_gradients_of_llama():
    ids = random_ids(2, 8)
    assert_same_step(llama(), llama("cuda"), input_ids=ids, labels=labels_of(ids), attention_mask=MASK)


@pytest.mark.parametrize("head", ["MaskedLM", "SequenceClassification", "TokenClassification", "regression"])
def test_gradients_of_bert(head):
    ids, kinds = random_ids(2, 8), (np.arange(8) > 3).astype(np.int32) * MASK
    name = "SequenceClassification" if head == "regression" else head
    labels = {
        "MaskedLM": np.where(np.arange(8) % 3 == 1, ids, IGNORE_INDEX),
        "SequenceClassification": np.array([2, 0]),
        "TokenClassification": np.where(MASK == 1, ids % 3, IGNORE_INDEX),
        "regression": np.array([0.5, -1.0], np.float32),
    }[head]
    changes = {"num_labels": 1 if head == "regression" else 3}
    here, there = (bert(getattr(llmcore, f"BertFor{name}"), device, **changes) for device in ("cpu", "cuda"))
    assert_same_step(here, there, input_ids=ids, labels=labels, attention_mask=MASK, token_type_ids=kinds)


def test_an_adapter_is_trained_and_merged():
    ids, config = random_ids(2, 8), dict(r=2, target_modules=["c_attn", "c_fc"], init_lora_weights=False)
    here, there = (get_peft_model(gpt2(device=device), LoraConfig(**config)) for device in ("cpu", "cuda"))
    assert_same_step(here, there, input_ids=ids, labels=ids)
    before = there.transformer.h[0].attn.c_attn.weight.numpy().copy()
    for model in (here, there):
        model.eval()
        model.merge_adapter()
    merged = there(ids).logits.numpy()
    np.testing.assert_allclose(merged, here(ids).logits.numpy(), rtol=1e-3, atol=1e-4)
    assert (there.transformer.h[0].attn.c_attn.weight.numpy() != before).any()
    there.unmerge_adapter()
    np.testing.assert_array_equal(there.transformer.h[0].attn.c_attn.weight.numpy(), before)


def test_a_model_moves_there_and_back(tmp_path):
    ids = random_ids(2, 8)
    model = llama()
    expected = model(ids).logits.numpy().copy()
    assert model.to("cuda") is model and model.device == "cuda:0"
    np.testing.assert_allclose(model(ids).logits.numpy(), expected, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path)
    for device in ("cpu", "cuda"):
        loaded = llmcore.AutoModelForCausalLM.from_pretrained(tmp_path, device=device)
        assert loaded.device.startswith(device)
        np.testing.assert_allclose(loaded(ids).logits.numpy(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(model.to("cpu")(ids).logits.numpy(), expected)


def test_an_id_outside_the_vocabulary_is_the_same_mistake():
    model = gpt2(device="cuda")
    with pytest.raises(IndexError, match=str(VOCABULARY)):
        model(np.array([[1, VOCABULARY]])).logits.numpy()
    assert np.isfinite(model(random_ids(1, 4)).logits.numpy()).all()
