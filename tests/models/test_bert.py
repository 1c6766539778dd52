from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from llmcore import _core
from llmcore.autograd import no_grad
from llmcore.errors import CheckpointError, ConfigError, DataError
from llmcore.models import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

SMALL = BertConfig(
    vocab_size=61,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=24,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
LENGTHS = np.array([17, 5, 1])


def some_ids(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, SMALL.vocab_size, (3, 17))


def gradients(model: BertModel) -> dict[str, np.ndarray]:
    return {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}


def test_sizes():
    c = BertConfig()
    C, inner = c.hidden_size, c.intermediate_size
    layer = 4 * (C * C + C) + C * inner + inner + inner * C + C + 4 * C
    rows = c.vocab_size + c.max_position_embeddings + c.type_vocab_size
    assert rows * C + 2 * C + 12 * layer + C * C + C == 109_482_240  # bert-base-uncased, as published
    c, (C, inner) = SMALL, (SMALL.hidden_size, SMALL.intermediate_size)
    layer = 4 * (C * C + C) + C * inner + inner + inner * C + C + 4 * C
    assert BertModel(c).num_parameters() == (61 + 24 + 2) * C + 2 * C + 2 * layer + C * C + C


def test_a_padded_batch_has_the_gradients_of_single_rows():
    """Every row on its own, without padding, adds up to the padded batch."""
    ids, mask = some_ids(), (np.arange(17) < LENGTHS[:, None]).astype(np.int64)
    labels = np.where(mask == 1, some_ids(1) % 5, -100)
    config = SMALL.replace(num_labels=5)
    together, apart = BertForTokenClassification(config), BertForTokenClassification(config)
    together(ids, mask, labels=labels).loss.backward()
    for row, length in enumerate(LENGTHS):
        one = slice(row, row + 1)
        loss = apart(ids[one, :length], labels=labels[one, :length]).loss
        (loss * float(length / LENGTHS.sum())).backward()
    expected = gradients(apart)
    assert len(expected) == len(list(apart.named_parameters()))
    for name, gradient in gradients(together).items():
        np.testing.assert_allclose(gradient, expected[name], rtol=0, atol=1e-5 * np.abs(expected[name]).max() + 1e-8)


def test_dropout_checkpointing_and_threads_change_no_bit():
    config = dataclasses.replace(SMALL, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    results = []
    for checkpointing, threads in ((False, 1), (True, 2), (True, 3)):
        _core.set_num_threads(threads)
        model = BertForSequenceClassification(config)
        model.activation_checkpointing = checkpointing
        loss = model(some_ids(), labels=[0, 1, 1]).loss
        loss.backward()
        results.append((loss.item(), gradients(model)))
    _core.set_num_threads(0)
    assert results[0][0] != BertForSequenceClassification(SMALL)(some_ids(), labels=[0, 1, 1]).loss.item()
    for loss, grads in results[1:]:
        assert loss == results[0][0]
        for name, gradient in results[0][1].items():
            np.testing.assert_array_equal(grads[name], gradient, err_msg=name)


def test_nothing_masked_is_no_loss():
    model = BertForMaskedLM(SMALL)
    loss = model(some_ids(), labels=np.full((3, 17), -100)).loss
    assert loss.item() == 0
    loss.backward()
    assert not any(gradient.any() for gradient in gradients(model).values())


def test_label_names_follow_one_another():
    assert SMALL.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    three = SMALL.replace(num_labels=3)
    assert three.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"} and three.label2id["LABEL_2"] == 2
    named = three.replace(id2label={0: "NEG", 1: "POS"})
    assert named.num_labels == 2 and named.label2id == {"NEG": 0, "POS": 1}
    assert SMALL.replace(label2id={"A": 0, "B": 1, "C": 2}).id2label == {0: "A", 1: "B", 2: "C"}


@pytest.mark.parametrize("dtype", [_core.DType.float32, _core.DType.bfloat16], ids=lambda d: d.name)
def test_save_and_load(tmp_path, dtype):
    config = SMALL.replace(id2label={0: "NEG", 1: "ZERO", 2: "POS"})
    model = BertForSequenceClassification(config, dtype=dtype).eval()
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert again.config == config and again.dtype == dtype and again.config.id2label[2] == "POS"
    with no_grad():
        np.testing.assert_array_equal(again(some_ids()).logits.numpy(), model(some_ids()).logits.numpy())
    with pytest.raises(CheckpointError, match=r"classifier.bias must have shape \(4,\), got \(3,\)"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=4)
    with pytest.raises(ConfigError, match="no field 'num_label'; did you mean 'num_labels'"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path, num_label=4)
    with pytest.raises(ConfigError, match="a model of model_type 'bert' cannot do this; these can: gpt2, llama"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_configurations_that_would_change_the_maths_are_refused(tmp_path):
    BertModel(SMALL).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    good = json.loads(path.read_text())
    for name, value, message in [
        ("position_embedding_type", "relative_key", "position_embedding_type='relative_key' is not supported"),
        ("is_decoder", True, "is_decoder=True is not supported, only False"),
        ("embedding_size", 128, "unknown field 'embedding_size'"),
        ("hidden_act", "mish", "hidden_act must be one of"),
        ("problem_type", "ranking", "problem_type must be one of"),
        ("tie_word_embeddings", False, "tie_word_embeddings must be True"),
        ("num_attention_heads", 5, "must be a multiple of num_attention_heads=5"),
        ("layer_norm_eps", float("nan"), "BertConfig: layer_norm_eps must be a number above 0, such as 1e-5, got nan"),
        ("initializer_range", -0.1, "BertConfig: initializer_range must be 0 or a number above it, got -0.1"),
    ]:
        path.write_text(json.dumps({**good, name: value}))
        with pytest.raises(ConfigError, match=message):
            AutoModel.from_pretrained(tmp_path)


def test_bad_input_is_refused():
    model, ids = BertForSequenceClassification(SMALL), some_ids()
    with pytest.raises(ConfigError, match="a row of 25 tokens is longer than the model's max_position_embeddings=24"):
        model(np.ones((1, 25), np.int64))
    with pytest.raises(DataError, match=r"token_type_ids must have the shape of input_ids, \(3, 17\), got \(1, 17\)"):
        model(ids, token_type_ids=ids[:1] * 0)
    with pytest.raises(IndexError, match="the table has 2 rows"):
        model(ids, token_type_ids=np.full_like(ids, 2))
    with pytest.raises(DataError, match=r"labels must have shape \(batch, 2\) for multi_label_classification"):
        model(ids, labels=np.array([0.5, 1.0, 0.0]))
    with pytest.raises(DataError, match="labels must be 0 or 1 for multi_label_classification"):
        model(ids, labels=np.full((3, 2), 0.5))
    with pytest.raises(DataError, match=r"labels must have shape \(3,\), got \(2,\)"):
        model(ids, labels=[0, 1])
    with pytest.raises(DataError, match=r"labels must have shape \(3, 17\), got \(3,\)"):
        BertForMaskedLM(SMALL)(ids, labels=[1, 2, 3])
    with pytest.raises(ConfigError, match="encode needs a tokenizer"):
        BertModel(SMALL).encode("text")
