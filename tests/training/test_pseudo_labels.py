"""Pseudo-labels: what is kept, what the report says, and that texts without labels help."""

from __future__ import annotations

import numpy as np
import pytest

import llmcore
from llmcore.data import train_wordpiece
from llmcore.errors import ConfigError, DataError
from llmcore.training.arguments import TrainingArguments
from llmcore.training.pseudo_labels import pseudo_label, self_train
from llmcore.training.row_evaluation import evaluate_rows

from .bert import REVIEWS, make_config, make_tokenizer

NAMES = {0: "bad", 1: "good"}


def make_model(seed: int = 3, **config) -> llmcore.BertForSequenceClassification:
    return llmcore.BertForSequenceClassification(make_config(id2label=NAMES, **config), seed=seed)


def test_rows_kept_and_the_report():
    """Every number of the report against one text at a time."""
    model, tokenizer = make_model(initializer_range=0.7).eval(), make_tokenizer()
    rows = [dict(row) for row in REVIEWS[:40]]
    for row in rows[::4]:
        del row["label"]  # really unlabelled
    chances = []
    for row in rows:
        logits = model(**tokenizer([row["text"]], return_tensors="np")).logits.numpy()[0].astype(np.float64)
        chances.append(np.exp(logits) / np.exp(logits).sum())
    sure, classes = np.max(chances, 1), np.argmax(chances, 1)
    # between two texts: a padded batch rounds otherwise than one text alone
    below, above = np.sort(sure)[14:16]
    assert above - below > 1e-5
    confidence = float(below + above) / 2
    kept = sure >= confidence
    labelled, report = pseudo_label(model, rows, tokenizer, confidence=confidence, batch_size=7)
    assert [row["text"] for row in labelled] == [row["text"] for row, keep in zip(rows, kept, strict=True) if keep]
    assert [row["label"] for row in labelled] == [NAMES[c] for c in classes[kept]]
    truth = np.array([row.get("label", -1) for row in rows])
    assert report.rows == 40 and report.kept == kept.sum() == 25 and report.known == 30
    assert report.by_class == {NAMES[c]: int((classes[kept] == c).sum()) for c in (0, 1)}
    assert report.mean_confidence == pytest.approx(sure[kept].mean())
    assert report.agreement == (classes == truth)[truth >= 0].mean()
    assert report.known_kept == (kept & (truth >= 0)).sum()
    assert report.agreement_kept == (classes == truth)[kept & (truth >= 0)].mean()
    assert (
        report.render().startswith("kept 25 of 40 rows (62.5 %) at confidence") and "30 known labels" in report.render()
    )

    capped, report = pseudo_label(model, rows, tokenizer, confidence=confidence, max_per_class=3)
    for number, name in NAMES.items():
        members = np.flatnonzero(kept & (classes == number))
        surest = {rows[i]["text"] for i in members[np.argsort(-sure[members], kind="stable")][:3]}
        assert {row["text"] for row in capped if row["label"] == name} == surest
    nothing, report = pseudo_label(model, [{"text": "the cat"}], tokenizer, confidence=1.0)
    assert (nothing, report.kept, report.mean_confidence, report.agreement) == ([], 0, None, None)


# Words of both classes: some stand in the labelled texts, the others only beside them in texts without labels.
NAMED_WORDS = {"good": ("good", "great", "fine"), "bad": ("bad", "poor", "dull")}
OTHER_WORDS = {"good": ("bright", "fresh", "sharp", "warm"), "bad": ("cold", "stale", "weak", "grim")}


def write_texts(rng: np.random.Generator, count: int, named: int, others: int) -> list[dict[str, str]]:
    """Texts of both classes in turn, each with so many words of either kind, in any order."""
    rows = []
    for label in ("good", "bad") * (count // 2):
        words = [*rng.choice(NAMED_WORDS[label], named, False), *rng.choice(OTHER_WORDS[label], others, False)]
        rng.shuffle(words)
        rows.append({"text": f"the {rng.choice(['film', 'plot'])} is {' and '.join(words)}", "label": label})
    return rows


def test_texts_without_labels_help(tmp_path):
    """What the labels never name is learnt from texts where it stands beside what they do name."""
    rng = np.random.default_rng(0)
    named, unlabelled = write_texts(rng, 40, named=2, others=0), write_texts(rng, 100, named=2, others=1)
    test = write_texts(rng, 64, named=0, others=2)
    tokenizer = train_wordpiece([row["text"] for row in named + unlabelled], 200, min_frequency=1, quiet=True)
    # numbers as labels, and columns that are not called as those of the rows without labels
    labelled = [{"sentence": row["text"], "labels": int(row["label"] == NAMES[1])} for row in named]
    args = TrainingArguments(
        str(tmp_path),
        learning_rate=3e-3,
        num_train_epochs=20,
        per_device_train_batch_size=8,
        save_strategy="no",
        plot_loss="no",
        seed=1,
    )

    def new_model() -> llmcore.BertForSequenceClassification:
        return llmcore.BertForSequenceClassification(
            make_config(num_hidden_layers=1, id2label=NAMES).replace(vocab_size=tokenizer.vocab_size), seed=3
        )

    # nothing is as sure as that, so the first model is the last
    alone, reports = self_train(new_model, labelled, unlabelled, args, tokenizer, rounds=2, confidence=1.0)
    assert [report.kept for report in reports] == [0]
    both, reports = self_train(new_model, labelled, unlabelled, args, tokenizer, rounds=2, confidence=0.95)
    assert len(reports) == 2 and all(report.known == 100 for report in reports)
    assert reports[0].kept > 50 and reports[0].agreement_kept > 0.95
    accuracy = [evaluate_rows(trainer.model, test, tokenizer)["accuracy"] for trainer in (alone, both)]
    assert accuracy[0] < 0.7 and accuracy[1] > 0.95  # with the seeds 0 to 5 of both: 0.20 to 0.67, and 1.0


def test_refusals(tmp_path):
    tokenizer = make_tokenizer()
    with pytest.raises(ConfigError, match="does not classify texts"):
        pseudo_label(llmcore.BertForSequenceClassification(make_config(num_labels=1)), REVIEWS, tokenizer)
    with pytest.raises(ConfigError, match="confidence is a probability from 0 to 1, got 90"):
        pseudo_label(make_model(), REVIEWS, tokenizer, confidence=90)
    with pytest.raises(DataError, match="row 1: there is no text in 'text'"):
        pseudo_label(make_model(), [{"text": "a"}, {"x": 1}], tokenizer)
    with pytest.raises(DataError, match="row 0: 'sentence2' is a second text"):
        pseudo_label(make_model(), [{"sentence1": "a", "sentence2": "b"}], tokenizer)
    args = TrainingArguments(str(tmp_path))
    with pytest.raises(DataError, match="row 1: a labelled row needs a label"):
        self_train(make_model, [{"text": "a", "label": "good"}, {"text": "b"}], REVIEWS, args, tokenizer)
    with pytest.raises(DataError, match="no labelled rows"):
        self_train(make_model, [], REVIEWS, args, tokenizer)
    with pytest.raises(DataError, match="row 0: the label 'ugly' is none of bad, good"):
        pseudo_label(make_model(), [{"text": "a", "label": "ugly"}], tokenizer)
