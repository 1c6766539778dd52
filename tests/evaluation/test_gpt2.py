"""Perplexity of the real GPT-2, against the loop of transformers' guide on perplexity and against log-probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmcore.data import BlockDataset, ShardWriter, byte_tokenizer, open_shard
from llmcore.evaluation import perplexity
from llmcore.models import GPT2LMHeadModel
from llmcore.training.arguments import TrainingArguments
from llmcore.training.trainer import Trainer
from tests.models.oracle import random_ids, save_gpt2, their_logits

CONTEXT = 48


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    theirs = save_gpt2(folder, n_positions=CONTEXT, vocab_size=257)
    return theirs, GPT2LMHeadModel.from_pretrained(folder)


def guide(model, ids: np.ndarray, max_length: int, stride: int) -> tuple[float, int]:
    """https://huggingface.co/docs/transformers/perplexity: total nats and the number of predictions."""
    import torch

    input_ids = torch.tensor(ids[None])
    nats, count, prev_end = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + max_length, len(ids))
        target_length = end - prev_end
        target = input_ids[:, begin:end].clone()
        target[:, :-target_length] = -100
        predictions = int((target[:, 1:] != -100).sum())
        with torch.no_grad():
            loss = model(input_ids[:, begin:end], labels=target).loss
        nats += float(loss) * predictions
        count += predictions
        prev_end = end
        if end == len(ids):
            break
    return nats, count


@pytest.mark.parametrize("length", [30, 48, 49, 200])
@pytest.mark.parametrize(("window", "stride"), [(48, 24), (48, 1), (30, 29)])
def test_strided_windows_equal_the_guide(pair, length, window, stride):
    theirs, ours = pair
    ids = random_ids(1, length, vocab_size=257)[0]
    nats, count = guide(theirs, ids, window, stride)
    result = perplexity(ours, ids, window=window, stride=stride)
    assert result["tokens"] == count == length - 1
    assert result[f"loss_strided_{window}_{stride}"] == pytest.approx(nats / count, rel=1e-5)


def test_disjoint_windows_predict_every_token_once(pair):
    theirs, ours = pair
    ids = random_ids(1, 150, vocab_size=257)[0]
    losses = []
    for start in range(0, len(ids) - 1, CONTEXT - 1):
        window = ids[start : start + CONTEXT]
        logits = their_logits(theirs, window[None]).astype(np.float64)[0, :-1]
        log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        losses.append(-log_probabilities[np.arange(len(window) - 1), window[1:]])
    loss = np.concatenate(losses)
    assert len(loss) == 149
    result = perplexity(ours, ids)
    assert result[f"loss_disjoint_{CONTEXT}"] == pytest.approx(loss.mean(), rel=1e-5)


def test_the_trainer_says_the_same(pair, tmp_path):
    _, ours = pair
    tokenizer = byte_tokenizer()
    with ShardWriter(tmp_path / "text.bin", tokenizer.vocab_size, eos_token_id=256) as writer:
        for text in ("a first document of some length, longer than a window", "a second one", "ü" * 40):
            writer.add_document(tokenizer.encode(text), len(text.encode()), len(text))
    shards = [open_shard(tmp_path / "text.bin")]
    arguments = TrainingArguments(output_dir=str(tmp_path / "run"), per_device_eval_batch_size=3)
    dataset = BlockDataset(shards, CONTEXT, keep_tail=True)
    trainer = Trainer(ours, arguments, eval_dataset=dataset, processing_class=tokenizer)
    metrics = trainer.evaluate()
    result = perplexity(ours, shards, tokenizer=tokenizer)
    for name in ("loss", "perplexity", "bits_per_byte"):
        assert metrics[f"eval_{name}"] == pytest.approx(result[f"{name}_disjoint_{CONTEXT}"], rel=1e-6)


@pytest.mark.parametrize("stride", [None, 13])
def test_batch_size_makes_no_difference(pair, stride):
    _, ours = pair
    text = "How a text is cut must not depend on how many windows run at once. " * 5
    parts = [text, text[:7], text[100:260]]
    results = [
        perplexity(ours, parts, stride=stride, batch_size=size, tokenizer=byte_tokenizer()) for size in (1, 2, 3, 7, 50)
    ]
    for result in results[1:]:
        for name, value in results[0].items():
            assert result[name] == pytest.approx(value, rel=1e-6), name


def test_a_uniform_model_costs_log2_of_its_vocabulary(pair):
    _, ours = pair
    weight = ours.transformer.ln_f.weight.data.clone()
    bias = ours.transformer.ln_f.bias.data.clone()
    ours.transformer.ln_f.weight.data.fill_(0.0)
    ours.transformer.ln_f.bias.data.fill_(0.0)
    try:
        result = perplexity(ours, "one byte a token", tokenizer=byte_tokenizer())
    finally:
        ours.transformer.ln_f.weight.data.copy_(weight)
        ours.transformer.ln_f.bias.data.copy_(bias)
    assert result[f"bits_per_byte_disjoint_{CONTEXT}"] == pytest.approx(math.log2(257), rel=1e-6)
    assert result[f"perplexity_disjoint_{CONTEXT}"] == pytest.approx(257, rel=1e-5)
