"""GPT-2 and Llama with a head for whole rows, against transformers: logits, losses, gradients, files, adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmcore
from llmcore.errors import ConfigError, DataError
from llmcore.models import AutoModelForCausalLM, AutoModelForSequenceClassification
from tests.models.oracle import LLAMA, NO_DROPOUT, NO_SPECIAL_TOKENS, SMALL, compare_gradients, save_model

PAD = 7
B, T = 4, 19
LENGTHS = np.array([19, 11, 1, 7])
MASK = (np.arange(T) < LENGTHS[:, None]).astype(np.int64)
KINDS = {
    "gpt2": ("GPT2ForSequenceClassification", {**SMALL, **NO_DROPOUT, **NO_SPECIAL_TOKENS}),
    "llama": ("LlamaForSequenceClassification", {**LLAMA, **NO_SPECIAL_TOKENS}),
}
HEADS = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}


def save(folder: Path, name: str, **config: Any) -> Any:
    kind, sizes = KINDS[name]
    return save_model(folder, kind, {**sizes, "pad_token_id": PAD, **config})


def some_batch(seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of several lengths; a padding token also stands inside a row and, in the second, at its end."""
    ids = np.random.default_rng(seed).integers(0, SMALL["vocab_size"], (B, T))
    ids[ids == PAD] = 0
    ids[0, 3] = ids[1, 10] = PAD
    return {"input_ids": np.where(MASK == 1, ids, PAD), "attention_mask": MASK}


def as_torch(batch: dict[str, np.ndarray]) -> dict[str, Any]:
    import torch

    return {name: torch.tensor(array) for name, array in batch.items()}


TASKS: dict[str, tuple[dict[str, Any], Any]] = {
    "classes": (dict(num_labels=3), np.array([2, 0, 1, 1])),
    "one number": (dict(num_labels=1), np.array([0.5, -1.0, 2.0, 0.1], np.float32)),
    "two numbers": (dict(num_labels=2, problem_type="regression"), np.float32([[1, 2], [0, 1], [-1, 0], [3, 3]])),
    "several labels": (dict(num_labels=2), np.float32([[1, 0], [0, 0], [1, 1], [0, 1]])),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", KINDS)
def test_logits_loss_and_gradients(tmp_path, name, task):
    import torch

    config, labels = TASKS[task]
    theirs = save(tmp_path, name, **config)
    # PyTorch's embedding does not train the padding token's row, which here is a token like any other
    theirs.get_input_embeddings().padding_idx = None
    ours = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(ours).__name__ == KINDS[name][0]
    batch = some_batch()
    with torch.no_grad():
        expected = theirs(**as_torch(batch)).logits.numpy()
    with llmcore.no_grad():
        np.testing.assert_allclose(ours.eval()(**batch).logits.numpy(), expected, rtol=0, atol=1e-4)
    loss = theirs(**as_torch(batch), labels=torch.tensor(labels)).loss
    loss.backward()
    ours.train()
    ours.activation_checkpointing = task == "classes"
    result = ours(**batch, labels=labels)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(loss.item(), abs=1e-4)
    compare_gradients(theirs, ours, 1e-3)


@pytest.mark.parametrize("name", KINDS)
def test_a_padded_batch_gives_the_gradients_of_its_rows(tmp_path, name):
    save(tmp_path, name, num_labels=3)
    batch, labels = some_batch(), TASKS["classes"][1]
    together = AutoModelForSequenceClassification.from_pretrained(tmp_path).train()
    together(**batch, labels=labels).loss.backward()
    alone = AutoModelForSequenceClassification.from_pretrained(tmp_path).train()
    for row, length in enumerate(LENGTHS):
        alone(batch["input_ids"][row : row + 1, :length], labels=labels[row : row + 1]).loss.backward()
    sums = {parameter: value.grad.numpy() / B for parameter, value in alone.named_parameters()}
    for parameter, value in together.named_parameters():
        np.testing.assert_allclose(value.grad.numpy(), sums[parameter], rtol=0, atol=1e-5, err_msg=parameter)


@pytest.mark.parametrize("name", KINDS)
def test_saved_models_load_in_transformers(tmp_path, name):
    import torch
    import transformers

    save(tmp_path / "theirs", name, num_labels=3, id2label={0: "bad", 1: "fine", 2: "good"})
    ours = AutoModelForSequenceClassification.from_pretrained(tmp_path / "theirs").eval()
    ours.save_pretrained(tmp_path / "ours")
    again, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert type(again).__name__ == KINDS[name][0] and again.config.id2label == {0: "bad", 1: "fine", 2: "good"}
    batch = some_batch()
    with torch.no_grad(), llmcore.no_grad():
        expected = again.eval()(**as_torch(batch)).logits.numpy()
        np.testing.assert_allclose(ours(**batch).logits.numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_a_head_on_a_language_model_and_back(tmp_path, name, tied):
    """The decoder's weights go from either head to the other; a new head is that of a new model with the same seed."""
    save_model(tmp_path / "words", HEADS[name], {**KINDS[name][1], "tie_word_embeddings": tied})
    with pytest.warns(UserWarning, match=r"has no weights for score\.weight: they start at random"):
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "words", num_labels=5, seed=3)
    fresh = type(model)(model.config, seed=3)
    np.testing.assert_array_equal(model.score.weight.numpy(), fresh.score.weight.numpy())
    model.save_pretrained(tmp_path / "rows")
    words = AutoModelForCausalLM.from_pretrained(tmp_path / "words").state_dict()
    for parameter, value in model.state_dict().items():
        if parameter != "score.weight":
            np.testing.assert_array_equal(value.numpy(), words[parameter].numpy())
    if tied:
        assert set(AutoModelForCausalLM.from_pretrained(tmp_path / "rows").state_dict()) == set(words)
    else:
        with pytest.raises(llmcore.CheckpointError, match="lm_head"):
            AutoModelForCausalLM.from_pretrained(tmp_path / "rows")


def test_what_cannot_be_pooled_is_refused(tmp_path):
    save(tmp_path, "gpt2", pad_token_id=None)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids = some_batch()["input_ids"]
    with pytest.raises(ConfigError, match=r"the last token of each of 4 rows the config needs a pad_token_id"):
        model(ids)
    with llmcore.no_grad():
        one = model(ids[:1]).logits.numpy()
        model.config.pad_token_id = PAD
        np.testing.assert_array_equal(model(ids[:1]).logits.numpy(), one)
        only_padding = model(np.full((1, 3), PAD)).logits.numpy()  # as in transformers: the first token
        np.testing.assert_allclose(only_padding, model(np.full((1, 1), PAD)).logits.numpy(), rtol=0, atol=1e-6)
    with pytest.raises(ConfigError, match="longer than the model's n_positions=160"):
        model(np.zeros((1, 161), np.int64))
    with pytest.raises(DataError, match=r"labels must have shape \(batch, 2\) for multi_label_classification"):
        model(ids, labels=np.zeros((4, 1)), attention_mask=MASK)


@pytest.mark.parametrize("name", KINDS)
def test_lora_trains_the_new_head_and_peft_reads_it(tmp_path, name):
    peft = pytest.importorskip("peft")
    import torch

    theirs = save(tmp_path / "base", name, num_labels=3)
    ours = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    config = llmcore.LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", init_lora_weights=False)
    ours = llmcore.get_peft_model(ours, config)
    trained = {parameter for parameter, value in ours.named_parameters() if value.requires_grad}
    assert "score.weight" in trained and all("lora_" in parameter for parameter in trained - {"score.weight"})
    ours.score.weight.data.copy_(llmcore.tensor(ours.score.weight.numpy() * 2).data)
    ours.save_pretrained(tmp_path / "adapter")
    batch = some_batch()
    with torch.no_grad(), llmcore.no_grad():
        expected = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()(**as_torch(batch)).logits
        np.testing.assert_allclose(ours.eval()(**batch).logits.numpy(), expected.numpy(), rtol=0, atol=1e-4)
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "adapter").eval()
        np.testing.assert_array_equal(again(**batch).logits.numpy(), ours(**batch).logits.numpy())
