"""The trainer with encoders: text and labels in, classes, numbers, tags and masked words out, as users of transformers
expect it."""

from __future__ import annotations

import json

import numpy as np
import pytest

import llmcore
from llmcore.data.collators import DataCollatorForLanguageModeling, DataCollatorWithPadding
from llmcore.errors import ConfigError, DataError
from llmcore.training.arguments import TrainingArguments
from llmcore.training.trainer import Trainer

from .bert import REVIEWS, make_config, make_tokenizer
from .helpers import assert_equal_weights

TRAIN, TEST = REVIEWS[::2] + REVIEWS[1::4], REVIEWS[3::4]


def arguments(folder, **settings) -> TrainingArguments:
    settings = {"learning_rate": 3e-3, "per_device_train_batch_size": 8, "plot_loss": "no", "seed": 1, **settings}
    return TrainingArguments(str(folder), **settings)


def accuracy(prediction) -> dict[str, float]:
    logits, labels = prediction
    return {"accuracy": float((np.argmax(logits, axis=-1) == labels).mean())}


def tokenized(rows) -> list[dict]:
    """As a tutorial has it: tokens beside the columns that were there."""
    tokenizer = make_tokenizer()
    return [{**row, **tokenizer(row["text"], truncation=True, max_length=32)} for row in rows]


def test_classifier_as_in_a_tutorial(tmp_path):
    """Columns that the model does not take are dropped, `label` becomes `labels`, the best epoch is loaded."""
    tokenizer = make_tokenizer()
    trainer = Trainer(
        model=llmcore.BertForSequenceClassification(make_config(), seed=3),
        args=arguments(
            tmp_path,
            num_train_epochs=6,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
        ),
        train_dataset=tokenized(TRAIN),
        eval_dataset=tokenized(TEST),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer=tokenizer),
        compute_metrics=accuracy,
    )
    output = trainer.train()
    history = [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry]
    assert len(history) == 6 and trainer.state.best_metric == max(history) > 0.9
    assert output.metrics["train_loss"] < 0.69 and "eval_perplexity" not in trainer.state.log_history[-2]
    assert trainer.evaluate()["eval_accuracy"] == max(history)  # the best weights, not the last

    prediction = trainer.predict(tokenized(TEST))
    assert prediction.predictions.shape == (len(TEST), 2) and prediction.predictions.dtype == np.float32
    assert prediction.label_ids.tolist() == [row["label"] for row in TEST]
    assert prediction.metrics["test_accuracy"] == max(history)
    logits = prediction.predictions.astype(np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(TEST)), prediction.label_ids]
    assert prediction.metrics["test_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    without = trainer.predict([{"input_ids": row["input_ids"]} for row in tokenized(TEST)])
    assert without.label_ids is None and "test_accuracy" not in without.metrics
    np.testing.assert_allclose(without.predictions, prediction.predictions, rtol=1e-5, atol=1e-6)

    trainer.save_model(tmp_path / "best")
    again = Trainer(str(tmp_path / "best"), arguments(tmp_path / "b"), processing_class=tokenizer)
    assert type(again.model) is llmcore.BertForSequenceClassification
    np.testing.assert_array_equal(again.predict(tokenized(TEST)).predictions, prediction.predictions)


def test_text_and_names_of_labels(tmp_path):
    """Rows of text are tokenized for the task; labels may be names that the configuration knows."""
    names = {0: "bad", 1: "good"}
    rows = [{**row, "label": names[row["label"]]} for row in TRAIN]
    model = llmcore.BertForSequenceClassification(make_config(id2label=names))
    settings = dict(train_dataset=rows, processing_class=make_tokenizer())
    trainer = Trainer(model, arguments(tmp_path, max_steps=2), **settings)
    batch = next(iter(trainer._make_loader(trainer.train_dataset, 4, training=False)))
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    assert batch["labels"].tolist() == [row["label"] for row in TRAIN[:4]]
    assert trainer.train().global_step == 2
    with pytest.raises(DataError, match="the data has the labels bad, good; the model knows LABEL_0, LABEL_1"):
        Trainer(llmcore.BertForSequenceClassification(make_config()), arguments(tmp_path), **settings)
    with pytest.raises(DataError, match="this model learns from words with a tag each"):
        Trainer(llmcore.BertForTokenClassification(make_config()), arguments(tmp_path), **settings)


def test_regression(tmp_path):
    rows = [{"text": row["text"], "label": 1.5 if row["label"] else -0.5} for row in TRAIN]
    model = llmcore.BertForSequenceClassification(make_config(num_labels=1))

    def compute_metrics(prediction):
        return {"mse": float(((prediction.predictions[:, 0] - prediction.label_ids) ** 2).mean())}

    settings = dict(num_train_epochs=6, eval_strategy="epoch", save_strategy="best", metric_for_best_model="mse")
    trainer = Trainer(
        model,
        arguments(tmp_path, **settings),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=make_tokenizer(),
        compute_metrics=compute_metrics,
    )
    assert trainer.args.greater_is_better is False
    before = trainer.evaluate()
    assert before["eval_loss"] == pytest.approx(before["eval_mse"], rel=1e-5)
    trainer.train()
    assert trainer.state.best_metric < 0.2 * before["eval_mse"]
    with pytest.raises(ConfigError, match="label_smoothing_factor is for classes"):
        Trainer(
            *(model, arguments(tmp_path / "smooth", label_smoothing_factor=0.1)),
            **dict(train_dataset=rows, processing_class=make_tokenizer()),
        ).train()


def test_tags_of_words(tmp_path):
    """Each word's first token has its tag; logits of every token reach compute_metrics, padded with -100."""
    tags = ["thing" if word in ("film", "plot", "cats", "dog") else "other" for word in "the cats is good".split()]
    rows = [{"tokens": "the cats is good".split(), "tags": tags}, {"tokens": ["dog"], "tags": ["thing"]}] * 8
    config = make_config(id2label={0: "other", 1: "thing"})
    seen = {}

    def compute_metrics(prediction):
        seen["shape"] = prediction.predictions.shape
        counted = prediction.label_ids != -100
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids)[counted].mean())}

    trainer = Trainer(
        llmcore.BertForTokenClassification(config),
        arguments(tmp_path, num_train_epochs=15, per_device_eval_batch_size=3),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=make_tokenizer(),
        compute_metrics=compute_metrics,
    )
    # [CLS] the cat ##s is good [SEP]
    assert trainer.train_dataset[0]["labels"] == [-100, 0, 1, -100, 0, 0, -100]
    trainer.train()
    assert trainer.evaluate()["eval_accuracy"] == 1.0
    assert seen["shape"] == (16, 7, 2)


def test_masked_words(tmp_path):
    """The loss on words behind masks falls, and an evaluation draws the same masks each time."""
    rows = [{"text": row["text"]} for row in REVIEWS]
    tokenizer = make_tokenizer()
    trainer = Trainer(
        llmcore.BertForMaskedLM(make_config(hidden_dropout_prob=0.0)),
        arguments(tmp_path, num_train_epochs=8),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=0.2),
    )
    before = trainer.evaluate()["eval_loss"]
    assert before == trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.6 * before and "eval_perplexity" not in after


def test_resumed_training_draws_the_same_masks(tmp_path):
    rows = [{"text": row["text"]} for row in REVIEWS]

    def make(folder, **settings):
        model = llmcore.BertForMaskedLM(make_config())
        return Trainer(model, arguments(folder, **settings), train_dataset=rows, processing_class=make_tokenizer())

    whole = make(tmp_path / "whole", max_steps=8)
    whole.train()
    half = make(tmp_path / "half", max_steps=8, save_steps=4)
    for step in half:
        if step.global_step == 5:
            half.stop(save=False)
    resumed = make(tmp_path / "half", max_steps=8, save_steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoint-4"))
    assert_equal_weights(whole.model, resumed.model)


@pytest.mark.parametrize("problem", ["classes", "number", "tags", "masked"])
def test_a_padded_batch_has_the_gradients_of_its_rows_one_by_one(problem):
    tokenizer, random = make_tokenizer(), np.random.default_rng(0)
    texts = [REVIEWS[0]["text"], "the cat", "not at all good walking the dogs very very slowly", "dull"]
    quiet = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.2)
    rows = tokenizer(texts)["input_ids"]
    if problem == "classes":
        model, labels = llmcore.BertForSequenceClassification(make_config(**quiet)), [1, 1, 1, 0]
    elif problem == "number":
        model = llmcore.BertForSequenceClassification(make_config(num_labels=1, **quiet))
        labels = random.standard_normal(4).astype(np.float32).tolist()
    elif problem == "tags":
        model = llmcore.BertForTokenClassification(make_config(**quiet))
        labels = [random.integers(0, 2, len(row)).tolist() for row in rows]
    else:
        model = llmcore.BertForMaskedLM(make_config(**quiet))
        labels = [[token if index % 2 else -100 for index, token in enumerate(row)] for row in rows]
    counts = [sum(label != -100 for label in row) if isinstance(row, list) else 1 for row in labels]

    batch = tokenizer(texts, padding=True, return_tensors="np")
    length = batch["input_ids"].shape[1]
    padded = [row + [-100] * (length - len(row)) if isinstance(row, list) else row for row in labels]
    loss = model(**batch, labels=np.array(padded)).loss
    loss.backward()
    together = {name: parameter.grad.numpy().copy() for name, parameter in model.named_parameters()}
    model.zero_grad()
    total = 0.0
    for text, row, count in zip(texts, labels, counts, strict=True):
        alone = model(**tokenizer([text], return_tensors="np"), labels=np.array([row])).loss * (count / sum(counts))
        alone.backward()
        total += alone.item()
    assert loss.item() == pytest.approx(total, rel=1e-5)
    assert max(np.abs(value).max() for value in together.values()) > 1e-2
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(together[name], parameter.grad.numpy(), rtol=0, atol=1e-5, err_msg=name)


def test_the_model_card_and_state_name_the_metric(tmp_path):
    trainer = Trainer(
        llmcore.BertForSequenceClassification(make_config()),
        arguments(tmp_path, max_steps=2, eval_strategy="steps", eval_steps=1),
        train_dataset=TRAIN[:8],
        eval_dataset={"same": TRAIN[:8], "other": TEST[:8]},
        processing_class=make_tokenizer(),
        compute_metrics=accuracy,
    )
    trainer.train()
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    names = {name for entry in state["log_history"] for name in entry}
    assert {"eval_same_accuracy", "eval_other_accuracy", "eval_other_loss"} <= names
