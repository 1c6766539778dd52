"""Estimators for scikit-learn: texts in, classes or numbers out.

    classifier = TextClassifier(num_train_epochs=5).fit(texts, labels)
    GridSearchCV(TextRegressor(), {"learning_rate": [1e-4, 1e-3]}).fit(texts, numbers)

Without `model` a small BERT and its vocabulary are trained from nothing on the texts of `fit`; with the folder of a
published encoder that one is fine-tuned. Needs scikit-learn (the extra `sklearn`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmcore.errors import ConfigError, DataError

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] != "sklearn":
        raise
    raise ConfigError(
        "llmcore's estimators need scikit-learn, which is not installed: pip install 'llmcore[sklearn]'"
    ) from None

_FILES = "_files"  # in a pickle: the folder of model and tokenizer


class _TextEstimator(BaseEstimator):
    """What classifier and regressor share.

    Args:
        model: folder of an encoder to fine-tune; None for a new small one with the sizes below.
        learning_rate, num_train_epochs, batch_size, weight_decay, warmup_ratio: of the training.
        max_length: tokens of a text that count; longer ones are cut.
        hidden_size, num_hidden_layers, num_attention_heads, dropout, vocab_size, lowercase: of a new encoder and its
            WordPiece vocabulary.
        random_state: the same number gives the same estimator, bit for bit; None another one at every fit.

    Attributes:
        model_, tokenizer_: what was trained. loss_: mean training loss of the last fit.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        learning_rate: float = 1e-3,
        num_train_epochs: float = 5,
        batch_size: int = 16,
        weight_decay: float = 0.01,
        warmup_ratio: float = 0.1,
        max_length: int = 128,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        dropout: float = 0.1,
        vocab_size: int = 4096,
        lowercase: bool = True,
        random_state: Any = 42,
    ) -> None:
        self.model = model
        self.learning_rate = learning_rate
        self.num_train_epochs = num_train_epochs
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.warmup_ratio = warmup_ratio
        self.max_length = max_length
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.dropout = dropout
        self.vocab_size = vocab_size
        self.lowercase = lowercase
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.non_deterministic = self.random_state is None
        return tags

    def _train(self, texts: list[str], labels: np.ndarray, **config: Any) -> None:
        """Trains on texts and what the model shall say about them: class numbers, or float numbers."""
        from llmcore.training.arguments import TrainingArguments
        from llmcore.training.trainer import Trainer

        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        model, tokenizer = self._start(texts, seed, config)
        rows = [
            {**dict(tokenizer(text, truncation=True, max_length=self._limit(model))), "labels": label.item()}
            for text, label in zip(texts, labels, strict=True)
        ]
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder,
                learning_rate=self.learning_rate,
                num_train_epochs=self.num_train_epochs,
                per_device_train_batch_size=self.batch_size,
                weight_decay=self.weight_decay,
                warmup_steps=self.warmup_ratio,
                save_strategy="no",
                plot_loss="no",
                disable_tqdm=True,
                seed=seed,
            )
            output = Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer).train()
        model.eval()
        self.model_, self.tokenizer_, self.loss_ = model, tokenizer, output.training_loss

    def _start(self, texts: list[str], seed: int, config: dict[str, Any]) -> tuple[Any, Any]:
        import llmcore
        from llmcore.data import Tokenizer, train_wordpiece

        if self.model is not None:
            model = llmcore.AutoModelForSequenceClassification.from_pretrained(self.model, seed=seed, **config)
            return model, Tokenizer.from_pretrained(self.model)
        tokenizer = train_wordpiece(texts, self.vocab_size, lowercase=self.lowercase, min_frequency=1, quiet=True)
        sizes = llmcore.BertConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=4 * self.hidden_size,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            max_position_embeddings=self.max_length,
        ).replace(**config)
        return llmcore.BertForSequenceClassification(sizes, seed=seed), tokenizer

    def _limit(self, model: Any) -> int:
        return min(self.max_length, model.config.max_position_embeddings)

    def _logits(self, X: Any) -> np.ndarray:
        from llmcore.training.text_logits import text_logits

        check_is_fitted(self)
        texts = self._check_texts(X)
        return text_logits(self.model_, texts, self.tokenizer_, batch_size=64, max_length=self.max_length)

    def _check_texts(self, X: Any) -> list[str]:
        """The texts of X, a list, an array (texts,) or a column of a table. Raises DataError."""
        if isinstance(X, (str, bytes)) or not hasattr(X, "__len__"):
            raise DataError(f"expected a sequence of texts, got one {type(X).__name__}; put it into a list")
        if getattr(X, "ndim", 1) != 1:
            raise DataError(f"expected a sequence of texts, got an array of shape {X.shape}; take one of its columns")
        texts = [str(text) if isinstance(text, str) else text for text in X]
        wrong = next((number for number, text in enumerate(texts) if not isinstance(text, str)), None)
        if wrong is not None:
            raise DataError(f"expected texts, got {type(texts[wrong]).__name__} at {wrong}")
        if not texts:
            raise DataError("expected at least one text, got none")
        return texts

    # ---- pickles hold files: safetensors and JSON, as `save_pretrained` writes them ----

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "model_" in state:
            with tempfile.TemporaryDirectory() as folder:
                state.pop("model_").save_pretrained(folder)
                state.pop("tokenizer_").save_pretrained(folder)
                state[_FILES] = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        import llmcore
        from llmcore.data import Tokenizer

        state = dict(state)
        files = state.pop(_FILES, None)
        if files is not None:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in files.items():
                    (Path(folder) / Path(name).name).write_bytes(content)
                state["model_"] = llmcore.AutoModelForSequenceClassification.from_pretrained(folder).eval()
                state["tokenizer_"] = Tokenizer.from_pretrained(folder)
        super().__setstate__(state)


class TextClassifier(ClassifierMixin, _TextEstimator):
    """Classifies texts. Settings as listed above; `classes_` are the labels of `fit`, sorted."""

    def fit(self, X: Sequence[str], y: Any) -> TextClassifier:
        """Trains on texts and their labels: integers, strings or anything that sorts. Raises ValueError."""
        texts = self._check_texts(X)
        labels = column_or_1d(_required(self, y), warn=True)
        check_consistent_length(texts, labels)
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(f"a classifier needs at least two classes, got one class: {self.classes_.tolist()[0]!r}")
        names = {number: str(label) for number, label in enumerate(self.classes_.tolist())}
        self._train(texts, numbers, id2label=names, problem_type="single_label_classification")
        return self

    def predict_proba(self, X: Sequence[str]) -> np.ndarray:
        """The probability of each class, in the order of `classes_`: (texts, classes) float64."""
        from llmcore.training.text_logits import probabilities

        return probabilities(self._logits(X))

    def predict(self, X: Sequence[str]) -> np.ndarray:
        """The likeliest class of each text, (texts,)."""
        places = self._logits(X).argmax(-1)  # first: it says so where nothing was fitted
        return self.classes_[places]


class TextRegressor(RegressorMixin, _TextEstimator):
    """Gives texts a number. Settings as listed above; the model learns y with mean 0 and deviation 1."""

    def fit(self, X: Sequence[str], y: Any) -> TextRegressor:
        """Trains on texts and their numbers. Raises ValueError."""
        texts = self._check_texts(X)
        numbers = column_or_1d(_required(self, y), warn=True).astype(np.float64)
        check_consistent_length(texts, numbers)
        if not np.isfinite(numbers).all():
            raise DataError("Input y contains NaN or infinity: numbers to be learnt have to be finite")
        self.mean_, self.scale_ = float(numbers.mean()), float(numbers.std()) or 1.0
        standardised = ((numbers - self.mean_) / self.scale_).astype(np.float32)
        self._train(texts, standardised, num_labels=1, problem_type="regression")
        return self

    def predict(self, X: Sequence[str]) -> np.ndarray:
        """The number of each text, (texts,) float64."""
        return self._logits(X)[:, 0].astype(np.float64) * self.scale_ + self.mean_


def _required(estimator: Any, y: Any) -> Any:
    if y is None:
        name = type(estimator).__name__
        raise DataError(f"{name} requires y to be passed, but the target y is None")
    return y
