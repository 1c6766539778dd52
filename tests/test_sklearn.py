"""The estimators: scikit-learn's contract, its tools around them, and what they learn."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import validate_data

import llmcore
from llmcore.sklearn import TextClassifier, TextRegressor
from tests.training.bert import REVIEWS, make_config, make_tokenizer

# in an order of its own: every other row of the original one would hold only half of the words
_ROWS = [REVIEWS[number] for number in np.random.default_rng(0).permutation(len(REVIEWS))]
TEXTS = [row["text"] for row in _ROWS]
LABELS = np.array(["bad", "good"])[[row["label"] for row in _ROWS]]
SMALL = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, dropout=0.0, learning_rate=3e-3)


# ---- the contract ----
#
# scikit-learn's checks are made of arrays of numbers, and leave out estimators that take something else. So they are
# run on estimators that write each row of numbers as a text and are otherwise the ones under test: what the contract
# says about fit, predict, settings, attributes, cloning and pickling is then checked on their code.


def as_word(column: int, number: float) -> str:
    """Two letters: the column, and the number in steps of a half, from -4.5 to 4.5."""
    step = int(np.clip(np.round(2 * number), -9, 9))
    return chr(ord("a") + column % 26) + chr(ord("m") + step)


def as_texts(X: np.ndarray) -> list[str]:
    """A text for each row, a word for each of its numbers."""
    return [" ".join(as_word(column, number) for column, number in enumerate(row)) for row in X]


class _OnNumbers:
    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = True, False, False
        return tags

    def fit(self, X: Any, y: Any = None) -> Any:
        X, y = validate_data(self, X, y, multi_output=False, y_numeric=isinstance(self, TextRegressor))
        return super().fit(as_texts(X), y)

    def _logits(self, X: Any) -> np.ndarray:
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        return super()._logits(as_texts(validate_data(self, X, reset=False)))


class ClassifierOnNumbers(_OnNumbers, TextClassifier):
    pass


class RegressorOnNumbers(_OnNumbers, TextRegressor):
    pass


# wide enough that each of the seeds 0 to 4 tells the checks' three overlapping clouds apart: 88 to 93 % right
ON_NUMBERS = {**SMALL, "hidden_size": 48, "learning_rate": 5e-3, "num_train_epochs": 6, "max_length": 32}


@parametrize_with_checks([ClassifierOnNumbers(**ON_NUMBERS), RegressorOnNumbers(**ON_NUMBERS)])
def test_contract(estimator, check):
    check(estimator)


# ---- the tools ----


def test_learns_and_is_reproducible():
    classifier = TextClassifier(num_train_epochs=8, **SMALL).fit(TEXTS[::2], LABELS[::2])
    assert classifier.classes_.tolist() == ["bad", "good"]
    assert classifier.score(TEXTS[1::2], LABELS[1::2]) > 0.9
    chances = classifier.predict_proba(TEXTS)
    assert chances.shape == (len(TEXTS), 2) and chances.dtype == np.float64
    np.testing.assert_allclose(chances.sum(1), 1)
    np.testing.assert_array_equal(classifier.classes_[chances.argmax(1)], classifier.predict(TEXTS))
    again = clone(classifier).fit(np.array(TEXTS[::2], object), list(LABELS[::2]))
    np.testing.assert_array_equal(again.predict_proba(TEXTS), chances)
    other = clone(classifier).set_params(random_state=7).fit(TEXTS[::2], LABELS[::2])
    assert (other.predict_proba(TEXTS) != chances).any()
    copied = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(copied.predict_proba(TEXTS), chances)
    assert copied.get_params() == classifier.get_params()


def test_regression():
    """Numbers far from mean 0 and deviation 1, of texts that were not in the training."""
    worth = {"great": 60, "good": 40, "fine": 20, "poor": -20, "dull": -40, "bad": -60}
    numbers = np.array([500 + worth[text.split()[-1]] + 15 * ("film" in text) for text in TEXTS])
    regressor = TextRegressor(num_train_epochs=30, **SMALL).fit(TEXTS[::2], numbers[::2])
    assert regressor.score(TEXTS[1::2], numbers[1::2]) > 0.8
    copied = pickle.loads(pickle.dumps(regressor))
    np.testing.assert_array_equal(copied.predict(TEXTS), regressor.predict(TEXTS))


def test_grid_search_and_pipeline():
    search = GridSearchCV(
        TextClassifier(num_train_epochs=10, **{**SMALL, "learning_rate": 1e-3}), {"learning_rate": [1e-6, 3e-3]}, cv=2
    )
    search.fit(TEXTS[::2], LABELS[::2])
    assert search.best_params_ == {"learning_rate": 3e-3}
    assert search.predict(TEXTS[:3]).shape == (3,)
    pipeline = make_pipeline(
        FunctionTransformer(lambda texts: [text.upper() for text in texts]), search.best_estimator_
    )
    assert pipeline.score(TEXTS[1::2], LABELS[1::2]) == search.score(TEXTS[1::2], LABELS[1::2])
    scores = cross_val_score(TextRegressor(num_train_epochs=1, **SMALL), TEXTS[:40], np.arange(40.0), cv=2)
    assert scores.shape == (2,) and np.isfinite(scores).all()


def test_fine_tunes_a_given_model(tmp_path):
    llmcore.BertForMaskedLM(make_config(), seed=1).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.warns(UserWarning):  # the head is new
        classifier = TextClassifier(str(tmp_path), num_train_epochs=4, learning_rate=3e-3).fit(TEXTS, LABELS)
    assert classifier.model_.config.hidden_size == 24 and classifier.model_.config.id2label == {0: "bad", 1: "good"}
    assert classifier.score(TEXTS, LABELS) > 0.9


def test_mistakes():
    classifier = TextClassifier(num_train_epochs=1, **SMALL)
    for texts, message in (
        ("a text", "put it into a list"),
        ([1, 2], "expected texts, got int at 0"),
        ([], "at least one text"),
        (np.array([["a", "b"]]), r"shape \(1, 2\); take one of its columns"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier.fit(texts, [0, 1])
    with pytest.raises(ValueError, match="at least two classes, got one class: 3"):
        classifier.fit(["a", "b"], [3, 3])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        classifier.fit(["a", "b"], [3])
    code = """
import sys
sys.modules["sklearn"] = None
try:
    import llmcore.sklearn
except ValueError as error:
    print(error)
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip().endswith("which is not installed: pip install 'llmcore[sklearn]'")
