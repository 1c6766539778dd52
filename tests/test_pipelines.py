"""Pipelines give what transformers' pipelines give on the same weights, shape by shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import llmcore
from llmcore.errors import ConfigError, DataError
from tests.training.bert import make_config, make_tokenizer

TEXTS = ["the cats was very good", "a dog", "not at all bad walkly film xyz"]
LOUD = dict(initializer_range=0.4)


def close(ours: Any, theirs: Any) -> None:
    """The same nested values; numbers to 1e-5."""
    assert type(ours) is type(theirs) or isinstance(ours, (float, int)), (ours, theirs)
    if isinstance(ours, dict):
        assert set(ours) == set(theirs)
        for name in ours:
            close(ours[name], theirs[name])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            close(one, other)
    elif isinstance(ours, str):
        assert ours == theirs
    else:
        assert ours == pytest.approx(float(theirs), abs=2e-5)


@pytest.fixture
def pair(tmp_path):
    """A function: (task, model) -> our pipeline and theirs, from one folder."""
    transformers = pytest.importorskip("transformers")

    def make(task: str, model: Any, tokenizer: Any = None, **settings: Any) -> tuple[Any, Any]:
        model.save_pretrained(tmp_path)
        (tokenizer or make_tokenizer()).save_pretrained(tmp_path)
        theirs = transformers.pipeline(task, model=str(tmp_path), tokenizer=str(tmp_path), device="cpu", **settings)
        return llmcore.pipeline(task, str(tmp_path), batch_size=2, **settings), theirs

    return make


@pytest.mark.parametrize("labels", [1, 3])
def test_text_classification(pair, labels):
    names = {0: "bad", 1: "fine", 2: "good"} if labels == 3 else {0: "score"}
    ours, theirs = pair(
        "text-classification", llmcore.BertForSequenceClassification(make_config(id2label=names, **LOUD))
    )
    for settings in (
        {},
        {"top_k": None},
        {"top_k": 2},
        {"function_to_apply": "none"},
        {"function_to_apply": "sigmoid"},
    ):
        close(ours(TEXTS, **settings), theirs(TEXTS, **settings))
        close(ours(TEXTS[0], **settings), theirs(TEXTS[0], **settings))
    assert llmcore.pipeline("sentiment-analysis", ours.model).task == "text-classification"
    with pytest.raises(ConfigError, match="function_to_apply must be one of softmax, sigmoid, none"):
        ours("a", function_to_apply="tanh")


def test_token_classification(pair):
    config = make_config(id2label={0: "O", 1: "B-THING", 2: "I-THING", 3: "I-DEED"}, **LOUD)
    ours, theirs = pair("token-classification", llmcore.BertForTokenClassification(config, seed=6))
    found = ours(TEXTS)
    assert {entity["entity"] for row in found for entity in row} == {"B-THING", "I-THING", "I-DEED"}
    close(found, theirs(TEXTS))
    close(ours(TEXTS, aggregation_strategy="simple"), theirs(TEXTS, aggregation_strategy="simple"))
    with pytest.raises(ConfigError, match="aggregation_strategy must be none or simple"):
        ours("a", aggregation_strategy="max")


def test_fill_mask(pair):
    ours, theirs = pair("fill-mask", llmcore.BertForMaskedLM(make_config(**LOUD)))
    for text in ("the [MASK] was good", ["a [MASK] dog", "[MASK] cats"], "the [MASK] is very [MASK]"):
        close(ours(text), theirs(text))
        close(ours(text, top_k=2), theirs(text, top_k=2))
    close(ours("the [MASK]", targets=["cat", "dog"]), theirs("the [MASK]", targets=["cat", "dog"]))
    with pytest.raises(DataError, match=r"there is no \[MASK\] in 'the cat'"):
        ours("the cat")
    with pytest.raises(DataError, match="the word 'elephant' is not in the vocabulary"):
        ours("the [MASK]", targets="elephant")


def test_feature_extraction(pair):
    ours, theirs = pair("feature-extraction", llmcore.BertModel(make_config(**LOUD)))
    close(ours(TEXTS[0]), theirs(TEXTS[0]))
    for one, other in zip(ours(TEXTS), theirs(TEXTS), strict=True):
        close(one, other)
    assert ours(TEXTS[0], return_tensors=True).shape == (1, 8, 24)


TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_text_generation(pair):
    from llmcore.data.vocabularies import byte_tokenizer

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    config = llmcore.GPT2Config(vocab_size=257, n_positions=96, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3)
    model = llmcore.GPT2LMHeadModel(config.replace(bos_token_id=256, eos_token_id=256, pad_token_id=256))
    ours, theirs = pair("text-generation", model, tokenizer)
    settings = dict(max_new_tokens=12, do_sample=False)
    for inputs in ("Once upon", ["Once upon", "a time there"]):
        for full in (True, False):
            expected = theirs(inputs, return_full_text=full, **settings)
            close(ours(inputs, return_full_text=full, **settings), expected)
    chat = [{"role": "user", "content": "hello"}]
    close(ours(chat, **settings), theirs(chat, **settings))
    several = ours("a", num_return_sequences=3, do_sample=True, max_new_tokens=4, seed=1)
    assert len(several) == 3 and all(set(one) == {"generated_text"} for one in several)


def test_the_task_is_found_and_mistakes_are_sentences(tmp_path):
    model = llmcore.BertForMaskedLM(make_config())
    model.tokenizer = make_tokenizer()
    assert llmcore.pipeline(model=model).task == "fill-mask"
    for arguments, message in (
        (("fill-masks", model), "there is no task 'fill-masks'; did you mean 'fill-mask'"),
        (("text-classification", model), "needs a model whose class ends in ForSequenceClassification"),
        (("fill-mask", None), "pipeline needs a model"),
        (("fill-mask", llmcore.BertForMaskedLM(make_config())), "fill-mask needs a tokenizer"),
        ((str(tmp_path), None), "is a folder, the first argument is the task"),
    ):
        with pytest.raises(ConfigError, match=message):
            llmcore.pipeline(*arguments)
    with pytest.raises(DataError, match="takes texts, got int"):
        llmcore.pipeline("fill-mask", model)(["[MASK]", 3])
    assert np.isfinite(llmcore.pipeline("fill-mask", model)("[MASK] cat")[0]["score"])
