"""BLEU, chrF, TER and ROUGE: what sacrebleu and rouge-score say, in English and in Chinese."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
import sacrebleu.metrics
from rouge_score import rouge_scorer

from llmcore.errors import ConfigError, DataError
from llmcore.evaluation import TextMetrics
from llmcore.evaluation.text_metrics import ROUGE_TYPES, characters, is_chinese

ENGLISH = "the a cat dog don't sat, on mat. Mats quickly 3.5 runs ran-off\nthe (well) end!".split(" ")
CHINESE = "今天天气很好我们去公园散步吧,。猫坐在垫子上3kg模型GPU的"
SAME = "今天天气很好,我们去公园散步吧。"


def corpus(seed: int, alphabet, glue: str) -> tuple[list[str], list[str]]:
    """Predictions and references of random words, half of each prediction copied from its reference."""
    draw = random.Random(seed)
    predictions, references = [], []
    for _ in range(draw.randint(1, 6)):
        reference = [draw.choice(alphabet) for _ in range(draw.randint(1, 25))]
        prediction = [word if draw.random() < 0.5 else draw.choice(alphabet) for word in reference]
        predictions.append(glue.join(prediction[: draw.randint(0, 25)]))
        references.append(glue.join(reference))
    return predictions, references


class Characters:
    """Every character that is no blank, as a tokenizer for rouge-score."""

    @staticmethod
    def tokenize(text: str) -> list[str]:
        return [character for character in text if character.strip()]


@pytest.mark.parametrize("chinese", [False, True])
def test_equal_to_the_libraries(chinese):
    alphabet, glue = (CHINESE, "") if chinese else (ENGLISH, " ")
    rouge = rouge_scorer.RougeScorer(list(ROUGE_TYPES), tokenizer=Characters() if chinese else None)
    nonzero = 0
    for seed in range(250):
        predictions, references = corpus(seed, alphabet, glue)
        language = "zh" if chinese else "en"
        ours = TextMetrics(("bleu", "chrf", "ter", "rouge"), language, segment=Characters.tokenize if chinese else None)
        for prediction, reference in zip(predictions, references, strict=True):
            ours.update([prediction], [reference])
        result = ours.compute()
        oracles = {
            "bleu": sacrebleu.metrics.BLEU(tokenize="zh" if chinese else "13a"),
            "chrf": sacrebleu.metrics.CHRF(),
            "ter": sacrebleu.metrics.TER(asian_support=chinese, normalized=chinese),
        }
        for name, oracle in oracles.items():
            assert result[name] == pytest.approx(oracle.corpus_score(predictions, [references]).score, abs=1e-9)
            assert result[f"{name}_signature"] == str(oracle.get_signature())
        nonzero += result["bleu"] > 1
        rows = [rouge.score(r, p) for p, r in zip(predictions, references, strict=True)]
        for kind in ROUGE_TYPES:
            assert result[kind] == pytest.approx(sum(row[kind].fmeasure for row in rows) / len(rows), abs=1e-9)
    assert nonzero > 100


def test_equal_chinese_texts_are_perfect():
    """With the libraries' own defaults both are 0 here, which is what the choice of words is for."""
    assert sacrebleu.metrics.BLEU().corpus_score([SAME], [[SAME]]).score == 0
    assert rouge_scorer.RougeScorer(["rouge1"]).score(SAME, SAME)["rouge1"].fmeasure == 0
    for segment, words in ((None, "characters"), (lambda text: [text[:4], text[4:]], "segmented")):
        metric = TextMetrics(segment=segment)
        metric.update([SAME], [SAME])
        result = metric.compute()
        assert result["bleu"] == pytest.approx(100, abs=1e-9) and "tok:zh" in result["bleu_signature"]
        assert result["chrf"] == pytest.approx(100, abs=1e-9)
        assert [result[kind] for kind in ROUGE_TYPES] == [1.0] * 4 and result["rouge_words"] == words


def test_words_and_languages():
    assert characters("GPU的3kg模型, 好_x") == ["gpu", "的", "3kg", "模", "型", "好", "x"]
    assert is_chinese([["模型 abc"], ["很好啊"]]) and not is_chinese([["a model 模型"]]) and not is_chinese([["1 + 1"]])
    english = TextMetrics(("bleu", "rouge"))
    english.update(["a cat sat there"], ["a cat sat there"])
    result = english.compute()
    assert "tok:13a" in result["bleu_signature"] and result["rouge_words"] == "english" and result["rouge2"] == 1.0


def test_several_references_and_merging():
    """Any reference may be matched, rows may have different numbers of them; parts merge to the whole."""
    predictions = ["the cat sat on the mat", "a dog ran off quickly today"]
    references = [["a cat is here", "the cat sat on the mat"], "a dog ran off quickly now"]
    whole, first, second = TextMetrics(), TextMetrics(), TextMetrics()
    whole.update(predictions, references)
    first.update(predictions[:1], references[:1])
    second.update(predictions[1:], references[1:])
    first.merge(second)
    result = whole.compute()
    assert result == first.compute()
    streams = [["a cat is here", references[1]], ["the cat sat on the mat", None]]
    expected = sacrebleu.metrics.BLEU().corpus_score(predictions, streams).score
    assert result["bleu"] == pytest.approx(expected, abs=1e-9)
    assert result["rouge1"] == pytest.approx((1 + 10 / 12) / 2, abs=1e-9)


def test_refusals():
    with pytest.raises(ConfigError, match=r"some of bleu, chrf, ter, rouge, got \['blue'\]"):
        TextMetrics(["blue"])
    metric = TextMetrics(["bleu"])
    with pytest.raises(DataError, match="nothing was collected"):
        metric.compute()
    with pytest.raises(DataError, match="1 predictions, but 2 references"):
        metric.update(["a"], ["b", "c"])
    with pytest.raises(DataError, match="texts come in lists"):
        metric.update("a", "b")
    with pytest.raises(DataError, match="row 0: a prediction is a string"):
        metric.update(["a"], [[]])


@pytest.mark.parametrize(("package", "metric"), [("sacrebleu", "bleu"), ("rouge_score", "rouge")])
def test_a_missing_package_is_one_sentence(package, metric):
    code = f"""
import sys
sys.modules[{package!r}] = None
from llmcore.evaluation import TextMetrics
try:
    TextMetrics([{metric!r}])
except ValueError as error:
    print(error)
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip().endswith("which is not installed: pip install 'llmcore[eval]'") and printed.count("\n") == 1
