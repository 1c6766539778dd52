"""How good is a model?

In reading order:

    perplexity      windows over text (sources) -> perplexity and bits per byte, each named by its windows
    confusion       counts of classes -> accuracy, precision, recall, F1, Matthews' correlation
    ranking         scores of two classes -> areas under curves, Brier score
    classification  all of these for a classifier, fed batch by batch
    regression      numbers -> errors and correlations
    text_metrics    texts -> BLEU, chrF, TER, ROUGE
    generation      prompts and references -> these of what a model writes
    lm_eval         models in lm-evaluation-harness (imported by itself: it needs the package)
"""

from __future__ import annotations

from llmcore.evaluation.classification import ClassificationMetrics
from llmcore.evaluation.confusion import ConfusionMatrix, PrecisionRecallF1, UndefinedMetricWarning
from llmcore.evaluation.generation import evaluate_generation
from llmcore.evaluation.perplexity import perplexity
from llmcore.evaluation.ranking import BinaryScores
from llmcore.evaluation.regression import RegressionMetrics
from llmcore.evaluation.text_metrics import TextMetrics

__all__ = [
    "BinaryScores",
    "ClassificationMetrics",
    "ConfusionMatrix",
    "PrecisionRecallF1",
    "RegressionMetrics",
    "TextMetrics",
    "UndefinedMetricWarning",
    "evaluate_generation",
    "perplexity",
]
