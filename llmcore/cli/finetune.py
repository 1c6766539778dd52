"""`llmcore finetune MODEL --train_file ...`: a trained model, trained on for a task."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from llmcore.cli.options import CommonOptions, TrainingFlags, UsageError, parse
from llmcore.errors import ConfigError, DataError

TASKS = ("causal-lm", "masked-lm", "sequence-classification", "regression", "token-classification")
_LORA_LEARNING_RATE = 2e-4
_ONLY_WITH_LORA = {"lora_r", "lora_alpha", "lora_dropout", "target_modules"}
_ONLY_WITH_MASKS = {"mlm_probability", "whole_word_mask"}
_AUTO = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
}
_LORA_TASKS = {"causal-lm": "CAUSAL_LM", "token-classification": "TOKEN_CLS"}


def finetuning_flags() -> TrainingFlags:
    """The training settings that differ from transformers' defaults."""
    return TrainingFlags(
        output_dir="finetuned",
        warmup_steps=0.06,
        enable_jit_checkpoint=True,
        disable_tqdm=False,
        save_strategy="epoch",
        save_total_limit=2,
    )


@dataclasses.dataclass(kw_only=True)
class FinetuneOptions(CommonOptions):
    """Train a model on: `llmcore finetune model --train_file reviews.csv`. The rows say what for."""

    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]] = ""
    """Folder of the model to start from."""

    train_file: list[str] = dataclasses.field(default_factory=list)
    """Rows: .jsonl, .json, .csv, .tsv, .parquet or .txt; text, text with a label, prompt and completion, messages, or
    tokens and tags."""

    validation_file: list[str] = dataclasses.field(default_factory=list)
    """Rows to validate on; none given sets a part of the others aside."""

    validation_fraction: float = 0.1
    """Part of the rows that validates, if there is no validation_file; 0 for none."""

    near_duplicates: bool = True
    """Keep rows that are nearly the same on one side of that split."""

    task: str | None = None
    """causal-lm, masked-lm, sequence-classification, regression or token-classification; None lets the rows decide."""

    lora: bool = False
    """Train a low-rank adapter, and nothing else."""

    lora_r: int = 8
    """Rank of the adapter."""

    lora_alpha: float = 16
    """The adapter is scaled by lora_alpha / lora_r."""

    lora_dropout: float = 0.0
    """Dropout on the way into the adapter."""

    target_modules: list[str] = dataclasses.field(default_factory=lambda: ["all-linear"])
    """Layers that get an adapter: ends of their names, or all-linear."""

    mlm_probability: float = 0.15
    """Part of the tokens behind masks (masked-lm)."""

    whole_word_mask: bool = False
    """Mask whole words (masked-lm)."""

    training: TrainingFlags = dataclasses.field(default_factory=finetuning_flags)


def main(argv: list[str]) -> int:
    """Runs the verb."""
    options = parse(FinetuneOptions, argv, "finetune")
    if not options.model or not options.train_file:
        raise UsageError("finetune needs a model and rows: llmcore finetune model --train_file reviews.csv")
    if options.task is not None and options.task not in TASKS:
        raise UsageError(f"--task is one of {', '.join(TASKS)}, got {options.task!r}.")
    if (Path(options.model) / "adapter_config.json").is_file():
        raise ConfigError(
            f"{options.model} is an adapter, and training starts from a whole model: make one of it with "
            f"llmcore merge-lora {options.model}"
        )
    if not 0 <= options.validation_fraction < 1:
        raise UsageError(f"--validation_fraction is at least 0 and less than 1, got {options.validation_fraction:g}.")
    if not options.lora and (unused := sorted(_ONLY_WITH_LORA & set(options.given))):
        raise UsageError(f"--{unused[0]} says how an adapter is made: give --lora, too, or leave it out.")
    args = options.training.arguments()  # refuses bad settings before rows are read
    if options.lora and "learning_rate" not in options.given:
        args = dataclasses.replace(args, learning_rate=_LORA_LEARNING_RATE)
    if Path(args.output_dir).resolve() == Path(options.model).resolve():
        raise UsageError(f"--output_dir {args.output_dir} is the folder of the model to start from: choose another.")
    return _train(options, args)


def _train(options: FinetuneOptions, args: Any) -> int:
    from llmcore.cli.output import print_result, remark
    from llmcore.data.row_files import read_rows
    from llmcore.data.rows import detect_rows
    from llmcore.data.tokenizer import Tokenizer
    from llmcore.training.trainer import Trainer

    rows = read_rows(options.train_file)
    forced = "sequence-classification" if options.task == "sequence-classification" else None
    shape = detect_rows(rows, args.dataset_text_field, "regression" if options.task == "regression" else forced)
    task = _task(options, shape)
    remark(f"data: {shape.render()}")
    remark(f"task: {task}" + ("" if options.task else " (--task chooses another)"))
    if task != "masked-lm" and (unused := sorted(_ONLY_WITH_MASKS & set(options.given))):
        raise UsageError(f"--{unused[0]} is for --task masked-lm; these rows train {task}.")
    if options.validation_file:
        train, validation = rows, read_rows(options.validation_file)
        _check_shape(validation, shape, args.dataset_text_field)
    else:
        train, validation, notes = split_rows(rows, options.validation_fraction, options.near_duplicates)
        for note in notes:
            remark(f"data: {note}")
    tokenizer = Tokenizer.from_pretrained(options.model)
    model = _model(options, task, shape)
    trainer = Trainer(
        model,
        _with_evaluation(args, options.given, bool(validation)),
        train_dataset=train,
        eval_dataset=validation or None,
        processing_class=tokenizer,
        data_collator=_collator(options, task, tokenizer, args.seed),
        compute_metrics=_metrics(task),
    )
    output = trainer.train()
    if trainer.stop_reason in ("SIGINT", "SIGTERM"):
        remark("go on with the same command and --resume_from_checkpoint true")
        return 128 + signal.Signals[trainer.stop_reason]
    if trainer.stop_reason is not None:
        remark(f"stopped early: {trainer.stop_reason}")
    trainer.save_model()  # before what takes time again
    evaluation = trainer.evaluate() if validation else {}
    result = {
        "output_dir": args.output_dir,
        "task": task,
        "rows": {"train": len(train), "validation": len(validation)},
        "labels": list(shape.labels) if shape.labels else None,
        "global_step": output.global_step,
        "metrics": {**output.metrics, **evaluation},
    }
    print_result(result, _summary(result, task), options.json)
    return 0


def _task(options: FinetuneOptions, shape: Any) -> str:
    """What is trained: what the user says, else what rows and model are made for."""
    from llmcore.models.auto import AutoModelForMaskedLM
    from llmcore.models.config import read_config

    if options.task is not None:
        return options.task
    encoder = read_config(options.model).get("model_type") in AutoModelForMaskedLM.models
    return "masked-lm" if shape.task == "causal-lm" and shape.kind == "text" and encoder else shape.task


def _check_shape(validation: Sequence[dict[str, Any]], shape: Any, text_field: str) -> None:
    """Raises DataError unless the rows to validate on hold what the rows to train on hold."""
    from llmcore.data.rows import detect_rows

    task = "regression" if shape.task == "regression" else None
    found = detect_rows(validation, text_field, task)
    if found.kind != shape.kind:
        raise DataError(f"--validation_file has {found.render()}; --train_file has {shape.render()}")


def _model(options: FinetuneOptions, task: str, shape: Any) -> Any:
    """The model with the head that the task needs, and its adapter. A head for another number of labels begins anew."""
    import llmcore

    changes: dict[str, Any] = {}
    if task == "regression":
        changes = {"num_labels": 1, "problem_type": "regression"}
    elif task in ("sequence-classification", "token-classification"):
        if shape.labels is None:
            raise ConfigError(f"--task {task} needs labels; the data has {shape.render()}")
        if len(shape.labels) < 2:
            raise DataError(f"every row has the label {shape.labels[0]!r}: a classifier needs two labels or more")
        changes = {"id2label": dict(enumerate(shape.labels))}
    if changes:
        changes["ignore_mismatched_sizes"] = True
    model = getattr(llmcore, _AUTO[task]).from_pretrained(options.model, **changes)
    if not options.lora:
        return model
    targets = options.target_modules
    config = llmcore.LoraConfig(
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=targets[0] if targets == ["all-linear"] else targets,
        task_type=_LORA_TASKS.get(task, "SEQ_CLS" if task in ("sequence-classification", "regression") else None),
        modules_to_save=["cls"] if task == "masked-lm" else None,
        base_model_name_or_path=str(Path(options.model).resolve()),
    )
    return llmcore.get_peft_model(model, config)


def _collator(options: FinetuneOptions, task: str, tokenizer: Any, seed: int) -> Any:
    from llmcore.data.collators import DataCollatorForLanguageModeling

    if task != "masked-lm":
        return None  # the trainer knows
    return DataCollatorForLanguageModeling(
        tokenizer,
        mlm=True,
        whole_word_mask=options.whole_word_mask,
        mlm_probability=options.mlm_probability,
        seed=seed,
    )


def _metrics(task: str) -> Any:
    from llmcore.evaluation import ClassificationMetrics, RegressionMetrics

    def measure(collected: Any, prediction: Any) -> dict[str, float]:
        collected.update(prediction.predictions, prediction.label_ids)
        return collected.compute()

    if task == "regression":
        return lambda prediction: measure(RegressionMetrics(), prediction)
    if task in ("sequence-classification", "token-classification"):
        return lambda prediction: measure(ClassificationMetrics(zero_division=0.0), prediction)
    return None


def split_rows(
    rows: Sequence[dict[str, Any]], fraction: float, near_duplicates: bool = True
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """(train, validation, remarks). A row's side is a function of the text in it, so equal rows are on one side, and
    rows that are added later move no others; with `near_duplicates` also those that are nearly equal are together."""
    from llmcore.data.split import places_of_near_duplicates, rank

    texts = [" ".join(_strings(row)) for row in rows]
    notes: list[str] = []
    places = places_of_near_duplicates(texts, fraction, notes, "rows") if near_duplicates and fraction else {}
    sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for row, text in zip(rows, texts, strict=True):
        place = rank(text)
        sides[places.get(place, place) < fraction].append(row)
    if not sides[0]:
        return sides[1], [], notes
    return *sides, notes


def _strings(value: Any) -> list[str]:
    """Every text in a row, however deep."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [text for part in value for text in _strings(part)]


def _with_evaluation(args: Any, given: tuple[str, ...], has_validation: bool) -> Any:
    """An evaluation after each epoch, where there is something to validate on and the user has not said otherwise."""
    if has_validation and not {"eval_strategy", "eval_steps"} & set(given):
        return dataclasses.replace(args, eval_strategy="epoch")
    if not has_validation and args.eval_strategy != "no":
        raise ConfigError(f"eval_strategy={args.eval_strategy!r} needs rows to validate on: give --validation_file.")
    return args


_SHOWN = ("eval_loss", "eval_perplexity", "eval_accuracy", "eval_f1", "eval_f1_macro", "eval_mse", "eval_pearson")


def _summary(result: dict[str, Any], task: str) -> str:
    shown = [f"{name[5:]} {result['metrics'][name]:.4f}" for name in _SHOWN if name in result["metrics"]]
    lines = [f"validation on {result['rows']['validation']:,} rows: {', '.join(shown)}"] if shown else []
    folder = result["output_dir"]
    following = f"llmcore {'chat' if task == 'causal-lm' else 'evaluate'} {folder}"
    if task == "masked-lm":
        following = f'llmcore.pipeline("fill-mask", "{folder}") in Python'
    return "\n".join([*lines, f"saved {folder}", f"next: {following}"])
