"""Text is written on a GPU as on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

import llmcore
from llmcore.pipelines import pipeline

from .tiny import bert, gpt2, llama, random_ids

PROMPTS = [random_ids(length, seed=length).tolist() for length in (1, 4, 6)]  # of different lengths, side by side


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def pair(request):
    make = {"gpt2": lambda device: gpt2(device=device), "llama": llama}[request.param]
    return make("cpu"), make("cuda")


def padded() -> dict[str, np.ndarray]:
    width = max(map(len, PROMPTS))
    ids = [[0] * (width - len(prompt)) + prompt for prompt in PROMPTS]
    return {
        "input_ids": np.array(ids),
        "attention_mask": np.array([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS]),
    }


def test_greedy_tokens_with_a_cache(pair):
    here, there = (model.generate(**padded(), max_new_tokens=6, pad_token_id=0) for model in pair)
    np.testing.assert_array_equal(there, here)
    assert len(set(there[:, -6:].reshape(-1).tolist())) >= 4  # not one token over and over


def test_sampling_is_reproducible(pair):
    settings = dict(max_new_tokens=5, do_sample=True, temperature=1.3, seed=7, pad_token_id=0)
    here, there, again = (model.generate(PROMPTS[1], **settings) for model in (*pair, pair[1]))
    np.testing.assert_array_equal(there, again)
    np.testing.assert_array_equal(there, here)
    assert (pair[1].generate(PROMPTS[1], **{**settings, "seed": 8}) != there).any()


def test_losses_of_tokens(pair):
    ids = random_ids(2, 8)
    here, there = (model.per_token_loss(ids) for model in pair)
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5)


def test_sentence_embeddings():
    ids, mask = random_ids(2, 6), np.array([[1] * 6, [1] * 4 + [0] * 2])
    here, there = (bert(llmcore.BertModel, device) for device in ("cpu", "cuda"))
    for model in (here, there):
        model.eval()
    found = there.sentence_embeddings(ids, mask).numpy()
    np.testing.assert_allclose(found, here.sentence_embeddings(ids, mask).numpy(), rtol=1e-4, atol=1e-5)


def test_a_pipeline_takes_the_number_of_a_gpu(tmp_path):
    from tests.training.bert import make_config, make_tokenizer

    llmcore.BertForSequenceClassification(make_config(num_labels=2)).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    there = pipeline("text-classification", str(tmp_path), device=0)
    assert there.model.device == "cuda:0"
    (here,), (found,) = (
        each("the film is good") for each in (pipeline("text-classification", str(tmp_path), device=-1), there)
    )
    assert found["label"] == here["label"] and found["score"] == pytest.approx(here["score"], rel=1e-4)
