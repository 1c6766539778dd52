"""`llmcore evaluate` beyond perplexity: labelled rows, written texts, splits, tasks; equal JSON for any batch size."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as oracle

import llmcore
from llmcore.data import train_bpe
from llmcore.evaluation import TextMetrics
from tests.cli.helpers import prose, run, run_json
from tests.training.bert import REVIEWS, make_config, make_tokenizer

NAMES = {0: "bad", 1: "good"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A classifier, a model of numbers and a decoder, all with random weights, and rows for them."""
    folder = tmp_path_factory.mktemp("evaluate")
    random = dict(initializer_range=0.5)
    for name, config in (("classes", dict(id2label=NAMES, **random)), ("numbers", dict(num_labels=1, **random))):
        llmcore.BertForSequenceClassification(make_config(**config), seed=3).save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    rows = [{"text": row["text"], "label": NAMES[row["label"]]} for row in REVIEWS]
    for name, part in (("train", rows[::2]), ("test", rows[1::2])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    with open(folder / "numbers.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("text", "label"), *((row["text"], len(row["text"]) / 10) for row in rows)])

    tokenizer = train_bpe([prose(100)], 300)
    eos = tokenizer.eos_token_id
    sizes = dict(n_positions=48, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3)
    config = llmcore.GPT2Config(vocab_size=tokenizer.vocab_size, bos_token_id=eos, eos_token_id=eos, **sizes)
    llmcore.GPT2LMHeadModel(config, seed=5).save_pretrained(folder / "decoder")
    tokenizer.save_pretrained(folder / "decoder")
    prompts = [
        {"prompt": f"{who} {does}", "reference": " the river."} for who in ("The cat", "A dog", "x") for does in "ab"
    ]
    prompts[0]["reference"] = ["one way", "another way"]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    (folder / "book.txt").write_text(prose(60))
    return folder


def test_classes(folder):
    splits = ["--train_file", "train.jsonl", "--test_file", "test.jsonl"]
    results = [run_json("evaluate", "classes", *splits, "--batch_size", str(size), cwd=folder) for size in (1, 5, 64)]
    assert results[0] == results[1] == results[2]  # bit for bit
    assert list(results[0]) == ["model", "data", "train", "test"]
    model, tokenizer = llmcore.AutoModelForSequenceClassification.from_pretrained(folder / "classes"), make_tokenizer()
    rows = REVIEWS[1::2]
    logits = model.eval()(**tokenizer([row["text"] for row in rows], padding=True, return_tensors="np")).logits.numpy()
    labels, predicted = [row["label"] for row in rows], logits.argmax(-1)
    found = results[0]["test"]
    assert found["rows"] == len(rows) and found["labels"] == ["bad", "good"]
    assert found["confusion_matrix"] == oracle.confusion_matrix(labels, predicted).tolist()
    assert found["f1_macro"] == pytest.approx(oracle.f1_score(labels, predicted, average="macro"), abs=1e-12)
    assert found["auroc"] == pytest.approx(oracle.roc_auc_score(labels, logits[:, 1] - logits[:, 0]), abs=1e-12)
    few = run("evaluate", "classes", "--data", "test.jsonl", "--metrics", "accuracy,f1", cwd=folder).stdout
    assert [line.split()[0] for line in few.splitlines()] == [
        *("accuracy", "f1", "f1_macro", "f1_micro", "f1_weighted", "rows")
    ]


def test_numbers_from_csv(folder):
    results = [
        run_json("evaluate", "numbers", "--data", "numbers.csv", "--batch_size", size, cwd=folder)
        for size in ("3", "50")
    ]
    assert results[0] == results[1]
    model, tokenizer = llmcore.AutoModelForSequenceClassification.from_pretrained(folder / "numbers"), make_tokenizer()
    texts = [row["text"] for row in REVIEWS]
    predicted = model.eval()(**tokenizer(texts, padding=True, return_tensors="np")).logits.numpy()[:, 0]
    true = np.float32([len(text) / 10 for text in texts])
    assert results[0]["mse"] == pytest.approx(oracle.mean_squared_error(true, predicted), rel=1e-6)
    assert results[0]["pearson"] == pytest.approx(np.corrcoef(true, predicted)[0, 1], rel=1e-6)


def test_written_texts(folder):
    words = ["evaluate", "decoder", "--data", "prompts.jsonl", "--metrics", "bleu,chrf,rouge", "--max_new_tokens", "12"]
    results = [run_json(*words, "--batch_size", size, cwd=folder) for size in ("1", "4")]
    assert results[0] == results[1]
    model = llmcore.AutoModelForCausalLM.from_pretrained(folder / "decoder")
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    metrics = TextMetrics()
    written = [model.generate(row["prompt"], max_new_tokens=12).strip() for row in rows]
    metrics.update(
        written, [row["reference"] if isinstance(row["reference"], list) else ["the river."] for row in rows]
    )
    expected = metrics.compute()
    assert expected["chrf"] > 0
    assert {name: results[0][name] for name in expected} == expected and results[0]["rows"] == len(rows)


def test_perplexity_is_the_same_for_any_batch_size(folder):
    splits = ["--validation_file", "book.txt", "--data", "book.txt", "--window", "20"]
    results = [run_json("evaluate", "decoder", *splits, "--batch_size", size, cwd=folder) for size in ("1", "7")]
    assert results[0] == results[1]
    whole = {name: value for name, value in results[0].items() if name not in ("model", "data", "validation")}
    assert results[0]["validation"] == whole and whole["tokens"] > 500


def test_tasks_of_the_harness(folder):
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    (folder / "tasks").mkdir()
    (folder / "tasks" / "texts.yaml").write_text(
        "task: texts\ndataset_path: json\noutput_type: loglikelihood_rolling\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / 'test.jsonl'}}}}}\n"
        'doc_to_text: ""\ndoc_to_target: "{{text}}"\nmetric_list: [{metric: bits_per_byte}]\n'
    )
    words = ["evaluate", "decoder", "--tasks", "texts", "--include_path", "tasks", "--limit", "4"]
    found = run_json(*words, cwd=folder)
    assert found["tasks"]["texts"]["bits_per_byte"] > 1


def test_mistakes(folder):
    def refused(*arguments: str) -> str:
        return run("evaluate", *arguments, cwd=folder, status=2).stderr

    assert "needs a model and text" in refused("classes")
    assert "have no 'bleuw'; there are accuracy" in refused("classes", "--data", "test.jsonl", "--metrics", "bleuw")
    assert "writes no text" in refused("classes", "--data", "prompts.jsonl", "--metrics", "bleu")
    assert "ask for the others in a second call" in refused("decoder", "--data", "x", "--metrics", "bleu,accuracy")
    assert "row 0: 'prompt' must be a text" in refused("decoder", "--data", "test.jsonl", "--metrics", "chrf")
    (folder / "other.jsonl").write_text('{"text": "good", "label": "excellent"}\n')
    assert "excellent" in refused("classes", "--data", "other.jsonl")
    assert "row 0: there is no label to compare with" in refused("classes", "--data", "book.txt")
    assert "--num_threads is from 0" in refused("classes", "--data", "test.jsonl", "--num_threads", "-2")
    assert "cut text for a decoder" in refused("classes", "--data", "test.jsonl", "--window", "8")
    assert "--tasks bring their own data" in refused("decoder", "--data", "book.txt", "--tasks", "texts")
