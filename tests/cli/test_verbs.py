"""Every verb that works on data, end to end on a little of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmcore.data import Tokenizer
from tests.cli.helpers import COMMAND, ENVIRONMENT, TINY, prose, run, run_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a text and a small model trained on it; used by the tests that only read."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "book.txt").write_text(prose())
    result = run_json(
        *("pretrain", "gpt2-tiny", "--train_file", "book.txt", "--output_dir", "out", *TINY),
        *("--max_steps", "60", "--learning_rate", "5e-3", "--logging-steps", "5"),
        cwd=folder,
    )
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_pretrain_leaves_a_whole_model(folder):
    result = json.loads((folder / "result.json").read_text())
    assert result["global_step"] == 60 and result["output_dir"] == "out"
    assert result["sample"]["text"]
    names = {path.name for path in (folder / "out").iterdir()}
    assert {
        *("config.json", "generation_config.json", "model.safetensors", "README.md", "training_args.json"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "trainer_state.json"),
        *("metrics.jsonl", "metrics.csv", "loss.png", "checkpoint-60", "data"),
    } <= names
    settings = json.loads((folder / "out" / "training_args.json").read_text())
    assert settings["learning_rate"] == 5e-3 and settings["adam_beta2"] == 0.95 and settings["weight_decay"] == 0.1
    assert settings["lr_scheduler_type"] == "cosine_with_min_lr" and settings["enable_jit_checkpoint"]


def test_pretrain_learns(folder):
    entries = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    evaluations = [entry["eval_loss"] for entry in entries if "eval_loss" in entry]
    assert losses[0] > 5.0 and losses[-1] < 2.6  # from about ln 257 to better than the letters' frequencies
    assert len(evaluations) == 10 and evaluations[-1] < evaluations[0]
    assert 0 < entries[-1].get("eval_bits_per_byte", evaluations[-1] / np.log(2)) < 4


def test_generate_is_repeatable_and_streams_the_same(folder):
    greedy = ["generate", "out", "--prompt", "The cat", "--max_new_tokens", "20"]
    first = run(*greedy, cwd=folder).stdout
    assert first.startswith("The cat") and len(first) > len("The cat") + 10
    assert run(*greedy, "--stream", cwd=folder).stdout == first
    result = run_json(*greedy, cwd=folder)
    assert result["results"][0]["prompt"] + result["results"][0]["text"] == first[:-1]
    assert result["results"][0]["new_tokens"] == 20 and result["results"][0]["finish_reason"] == "length"

    sampled = ["generate", "out", "--prompt", "The cat", "--temperature", "0.9", "--seed", "7"]
    sampled += ["--num_return_sequences", "2", "--max_new_tokens", "30"]
    texts = [entry["text"] for entry in run_json(*sampled, cwd=folder)["results"]]
    assert texts == [entry["text"] for entry in run_json(*sampled, cwd=folder)["results"]]
    assert len(set(texts)) == 2


def test_generate_takes_prompts_from_everywhere(folder):
    (folder / "prompt.txt").write_text("A dog")
    length = ["--max_new_tokens", "5"]
    from_flag = run("generate", "out", "--prompt", "A dog", *length, cwd=folder).stdout
    assert run("generate", "out", "--prompt_file", "prompt.txt", *length, cwd=folder).stdout == from_flag
    assert run("generate", "out", *length, cwd=folder, text="A dog").stdout == from_flag
    both = run_json("generate", "out", "--prompt", "A dog", "The cat", *length, cwd=folder)["results"]
    assert [entry["prompt"] for entry in both] == ["A dog", "The cat"]


def test_generate_stops_and_goes_beyond_the_context(folder):
    whole = run_json("generate", "out", "--prompt", "The", "--max_new_tokens", "60", cwd=folder)["results"][0]
    assert whole["new_tokens"] == 60  # the context is 32
    stop = whole["text"][5:7]
    cut = run_json("generate", "out", "--prompt", "The", "--max_new_tokens", "60", "--stop", stop, cwd=folder)[
        "results"
    ][0]
    assert cut["text"] == whole["text"][: whole["text"].index(stop)] and cut["finish_reason"] == "stop"
    refused = run(
        "generate", "out", "--prompt", "The", "--max_new_tokens", "60", "--no_slide_context", cwd=folder, status=2
    )
    assert "32" in refused.stderr


def test_evaluate_agrees_with_the_training(folder):
    trained = json.loads((folder / "result.json").read_text())["metrics"]
    again = run_json("evaluate", "out", "--data", "out/data/validation.bin", cwd=folder)
    assert again["perplexity_disjoint_32"] == pytest.approx(trained["eval_perplexity"], rel=1e-5)
    assert again["bits_per_byte_disjoint_32"] == pytest.approx(trained["eval_bits_per_byte"], rel=1e-5)
    strided = run_json("evaluate", "out", "--data", "out/data/validation.bin", "--stride", "8", cwd=folder)
    assert strided["tokens"] == again["tokens"]
    assert strided["bits_per_byte_strided_32_8"] < again["bits_per_byte_disjoint_32"]  # more to see for each token
    text = run("evaluate", "out", "--data", "book.txt", cwd=folder).stdout
    assert "perplexity_disjoint_32" in text and "bits_per_byte_disjoint_32" in text


def test_plot_draws_runs(folder):
    result = run_json("plot", "out", "--output", "curves.svg", "--title", "Two", cwd=folder)
    assert result["picture"] == "curves.svg" and "<svg" in (folder / "curves.svg").read_text()
    assert "drew" in run("plot", "out", "out", "--output", "curves.png", cwd=folder).stdout
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_resume_goes_on_with_the_same_tokens(folder, tmp_path):
    command = ["pretrain", "gpt2-tiny", "--train_file", "book.txt", "--output_dir", str(tmp_path / "run"), *TINY]
    run(*command, "--max_steps", "10", "--save_steps", "5", cwd=folder)
    tokens = (tmp_path / "run" / "data" / "train.bin").read_bytes()
    result = run(*command, "--max_steps", "20", "--resume_from_checkpoint", cwd=folder)
    assert "going on with the tokens" in result.stderr
    assert (tmp_path / "run" / "data" / "train.bin").read_bytes() == tokens
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["global_step"] == 20 and state["log_history"][0]["step"] == 1


def test_a_device_that_is_not_there_is_refused_before_the_text_is_read(folder, tmp_path):
    result = run("pretrain", "gpt2", "--train_file", "book.txt", "--device", "cuda", cwd=tmp_path, status=2)
    assert result.stderr.startswith('llmcore: device "cuda" is not available: ') and result.stderr.count("\n") == 1


def test_dry_run_trains_nothing(folder, tmp_path):
    command = ["pretrain", "gpt2", "--train_file", str(folder / "book.txt"), "--dry_run"]
    result = run_json(*command, cwd=tmp_path)
    # what the allocator takes for the flat buffers: at most an eighth more than the weights themselves
    assert 4 * result["parameters"] <= result["memory"]["weights"] < 4.5 * result["parameters"]
    assert result["memory"]["fits"]
    assert result["data"]["splits"]["train"]["tokens"] > 1000
    text = run(*command, cwd=tmp_path).stdout
    assert "Data report" in text and "memory: weights" in text and "it fits" in text
    refused = run(*command, "--memory_limit", "1MB", cwd=tmp_path).stdout
    assert "does NOT fit" in refused
    assert list(tmp_path.iterdir()) == []


def test_pretrain_reads_standard_input_and_a_config_file(tmp_path):
    (tmp_path / "run.yaml").write_text("max_steps: 3\nlr: 1e-3\npreset: tiny\nn_layer: 1\nblock-size: 32\n")
    result = run("pretrain", "--train_file", "-", "--config", "run.yaml", cwd=tmp_path, text=prose(200))
    assert "one token per byte, because the text has" in result.stderr
    assert "'lr' is accepted as another name of 'learning_rate'" in result.stderr
    assert "llmcore generate out" in result.stdout
    assert json.loads((tmp_path / "out" / "training_args.json").read_text())["learning_rate"] == 1e-3
    assert not list((tmp_path / "out").rglob("stdin*"))


def test_prepare_then_pretrain(tmp_path):
    (tmp_path / "texts").mkdir()
    for index in range(30):
        (tmp_path / "texts" / f"{index}.txt").write_text(prose(60, seed=index))
    report = run_json("prepare", "texts", "--output_dir", "tokens", "--vocab_size", "300", cwd=tmp_path)
    assert report["vocab_size"] == 300 and set(report["splits"]) == {"train", "validation"}
    assert "Data report" in run("prepare", "texts", "--output_dir", "t2", "--tokenizer", "byte", cwd=tmp_path).stdout
    size = ["--n_layer", "1", "--n_head", "2", "--n_embd", "32", "--block_size", "32", "--max_steps", "3"]
    run("pretrain", "tiny", "--train_file", "tokens", *size, cwd=tmp_path)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 300
    late = run("pretrain", "tiny", "--train_file", "tokens", "--vocab_size", "400", *size, cwd=tmp_path, status=2)
    assert "comes too late" in late.stderr


@pytest.mark.parametrize(("kind", "size"), [("bpe", 300), ("char", None), ("byte", 257)])
def test_tokenizer_train(tmp_path, kind, size):
    (tmp_path / "book.txt").write_text(prose())
    words = ["tokenizer", "train", "book.txt", "--kind", kind, "--vocab_size", "300", "--output_dir", "t"]
    result = run_json(*words, cwd=tmp_path)
    assert result["vocab_size"] == size or size is None
    from llmcore import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "t")
    assert tokenizer.vocab_size == result["vocab_size"]
    assert tokenizer.decode(tokenizer.encode("The cat sees a river.")) == "The cat sees a river."
    assert run(*words[:3], "--kind", kind, cwd=tmp_path).stdout.startswith("tokenizer: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_saves_and_the_run_goes_on(tmp_path, number):
    (tmp_path / "book.txt").write_text(prose())
    command = ["pretrain", "tiny", "--train_file", "book.txt", *TINY, "--logging_steps", "1", "--eval_strategy", "no"]
    process = subprocess.Popen(
        [*COMMAND, *command, "--max_steps", "100000"], cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("step") and len(lines) > 3:
            process.send_signal(number)
            break
    lines += process.stderr.readlines()
    assert process.wait(timeout=120) == 128 + number
    text = "".join(lines)
    assert "Traceback" not in text and "--resume_from_checkpoint true" in lines[-1]
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    step = int(checkpoint.name.rpartition("-")[2])
    run(*command, "--max_steps", str(step + 2), "--resume_from_checkpoint", "true", cwd=tmp_path)
    steps = [json.loads(line).get("step") for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert steps[0] == 1 and steps[-1] == step + 2


@pytest.mark.parametrize(
    ("number", "sentence"), [(signal.SIGINT, "interrupted."), (signal.SIGTERM, "terminated.")], ids=["INT", "TERM"]
)
def test_a_signal_elsewhere_is_one_sentence(tmp_path, number, sentence):
    script = f"""
import os, sys
from llmcore.cli import command
command._run_verb = lambda argv: os.kill(os.getpid(), {int(number)}) or [None for _ in range(10**9)]
command.main([])
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stderr) == (128 + number, f"llmcore: {sentence}\n")


def test_quickstart_runs_all_of_its_steps(tmp_path):
    sources = Path(json.__file__).parent  # a few files of the standard library
    command = ["quickstart", "--train_file", str(sources), "--max_steps", "12", "--output_dir", "q"]
    result = run_json(*command, cwd=tmp_path)
    assert result["steps"] == 12 and result["held_out_files"] == 1 and 0 < result["bits_per_byte"] < 8
    assert len(result["completions"]) == 2 and result["completions"][0]["prompt"].startswith("def ")
    assert (tmp_path / "q" / "loss.png").is_file()
    shown = run("generate", "q", "--prompt", "def f(", "--max_new_tokens", "5", cwd=tmp_path).stdout
    assert shown.startswith("def f(")


def test_the_quickstarts_split_keeps_files_apart():
    from llmcore.quickstart import python_files, split_files

    files = python_files(None)
    train, held_out = split_files(files)
    assert len(train) + len(held_out) == len(files) and not set(train) & set(held_out)
    assert 0.03 < len(held_out) / len(files) < 0.05
    again = split_files(list(reversed(files)))
    assert set(again[1]) == set(held_out)  # by name, whatever the order
    assert split_files(files[:2])[0] and split_files(files[:2])[1]


def test_profile_of_presets_and_folders(folder):
    common = ["--batch_size", "2", "--block_size", "16", "--steps", "2"]
    text = run("profile", "gpt2-tiny", *common, "--shapes", "--num_threads", "1", cwd=folder).stdout
    assert "2 x 16 tokens, float32" in text and "with 1 threads" in text and "GFLOP/s" in text and "GB/s" in text
    assert any(line.startswith("matmul ") and "a b^T 32 x 128 x 128" in line for line in text.splitlines())
    result = run_json("profile", "out", *common, "--dtype", "bfloat16", "--activation_checkpointing", cwd=folder)
    assert result["tokens"] == 32 and result["dtype"] == "bfloat16" and result["peak_memory"] > 0
    assert sum(row["share"] for row in result["rows"]) == pytest.approx(1.0)
    assert {"linear_forward", "matmul_add", "adamw_step", "clip_factor"} <= {row["op"] for row in result["rows"]}
    wrong = run("profile", "gpt2-tiny", "--steps", "0", cwd=folder, status=2)
    assert "steps must be at least 1, got 0" in wrong.stderr
    wrong = run("profile", "gpt2-tiny", "--block_size", "129", cwd=folder, status=2)
    assert "longer than the model's n_positions=128" in wrong.stderr


@pytest.mark.parametrize(("kind", "first"), [("wordpiece", "[PAD]"), ("unigram", "<pad>")])
def test_tokenizer_of_other_kinds(tmp_path, kind, first):
    (tmp_path / "text.txt").write_text(prose(200))
    found = run_json("tokenizer", "train", "text.txt", "--kind", kind, "--vocab_size", "90", cwd=tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path / "tokenizer")
    assert found["kind"] == kind and found["vocab_size"] == tokenizer.vocab_size
    # unigram's pieces have to occur in the text, and so few words have fewer
    assert tokenizer.vocab_size == 90 if kind == "wordpiece" else 30 < tokenizer.vocab_size <= 90
    assert tokenizer.convert_ids_to_tokens(0) == first
    assert (tokenizer.tokenize("NOBODY") == tokenizer.tokenize("nobody")) == (kind == "wordpiece")
    refused = run("tokenizer", "train", "text.txt", "--lowercase", "true", cwd=tmp_path, status=2)
    assert "--lowercase is for wordpiece and unigram" in refused.stderr


def test_a_llama_is_pretrained_like_any_preset(tmp_path):
    (tmp_path / "book.txt").write_text(prose())
    command = ["pretrain", "llama-tiny", "--train_file", "book.txt", "--output_dir", "out", *TINY]
    result = run_json(*command, "--max_steps", "40", "--learning_rate", "5e-3", cwd=tmp_path)
    assert result["global_step"] == 40 and result["sample"]["text"]
    entries = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    logged = [entry for entry in entries if "percent_of_matmul_peak" in entry]
    assert logged and 0 < logged[-1]["percent_of_matmul_peak"] <= 100
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
    assert entries[-1].get("eval_loss", result["metrics"]["eval_loss"]) < 4.0  # ln 257 is 5.5
    assert run("generate", "out", "--prompt", "The cat", "--max_new_tokens", "5", cwd=tmp_path).stdout
