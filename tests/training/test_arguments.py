"""`TrainingArguments`: names, aliases, defaults, checks."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import warnings

import pytest

from llmcore.errors import ConfigError
from llmcore.training import argument_names, arguments
from llmcore.training.arguments import DIFFERENT_DEFAULTS, FIELD_NAMES, TrainingArguments, parse_bytes


def test_defaults_equal_transformers():
    transformers = pytest.importorskip("transformers")
    theirs = {}
    for field in dataclasses.fields(transformers.TrainingArguments):
        theirs[field.name] = field.default
    different = set()
    for field in dataclasses.fields(TrainingArguments):
        if field.name not in theirs:
            continue
        expected = theirs[field.name]
        if field.name == "optim":
            expected = TrainingArguments(optim=expected).optim  # another spelling of the same optimizer
        if field.default != getattr(expected, "value", expected):
            different.add(field.name)
    # the other two of the seven: a value for the command line only, and a setting of our own
    assert different | {"enable_jit_checkpoint", "deterministic"} == set(DIFFERENT_DEFAULTS)
    assert len(DIFFERENT_DEFAULTS) == 7
    assert "deterministic" not in theirs and TrainingArguments().deterministic
    for name, (neutral, _) in {**argument_names.IGNORED, **argument_names.UNAVAILABLE}.items():
        if name in theirs:
            assert getattr(theirs[name], "value", theirs[name]) == neutral, name


def test_names_of_transformers_with_their_defaults_are_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, (neutral, _) in {**argument_names.IGNORED, **argument_names.UNAVAILABLE}.items():
            TrainingArguments(**{name: neutral})


@pytest.mark.parametrize(
    "alias, value, name, expected",
    [
        ("epochs", 2, "num_train_epochs", 2),
        ("batch_size", 4, "per_device_train_batch_size", 4),
        ("micro_batch_size", 4, "per_device_train_batch_size", 4),
        ("eval_batch_size", 4, "per_device_eval_batch_size", 4),
        ("grad_accumulation_steps", 4, "gradient_accumulation_steps", 4),
        ("lr", 1e-3, "learning_rate", 1e-3),
        ("lr_scheduler", "cosine", "lr_scheduler_type", "cosine"),
        ("warmup_ratio", 0.1, "warmup_steps", 0.1),
        ("optimizer", "sgd", "optim", "sgd"),
        ("grad_clip", 0.5, "max_grad_norm", 0.5),
        ("precision", "bf16-true", "bf16", True),
        ("dtype", "float32", "bf16", False),
        ("gradient_checkpointing", True, "activation_checkpointing", True),
        ("evaluation_strategy", "epoch", "eval_strategy", "epoch"),
        ("save_every", 7, "save_steps", 7),
        ("resume", "auto", "resume_from_checkpoint", "auto"),
        ("random_state", 1, "seed", 1),
        ("no_cuda", True, "use_cpu", True),
        ("group_by_length", True, "train_sampling_strategy", "group_by_length"),
        ("max_seq_length", 256, "max_length", 256),
    ],
)
def test_alias_sets_the_field_and_warns_once(alias, value, name, expected):
    with pytest.warns(FutureWarning, match=f"write '{name}'") as caught:
        args = TrainingArguments(**{alias: value})
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert getattr(args, name) == expected


def test_aliases_point_at_fields():
    assert set(argument_names.ALIASES.values()) <= set(FIELD_NAMES)
    others = [argument_names.ALIASES, argument_names.IGNORED, argument_names.UNAVAILABLE, argument_names.REFUSED]
    assert not set(FIELD_NAMES) & {name for names in others for name in names}


def test_ignored_name_warns():
    with pytest.warns(FutureWarning, match="'torch_compile' is accepted and ignored"):
        TrainingArguments(torch_compile=True)


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"evals_strategy": "no"}, TypeError, "did you mean 'eval_strategy'"),
        ({"xyzzy": 1}, TypeError, "no setting 'xyzzy'$"),
        ({"iters": 10}, TypeError, "max_steps = iterations / gradient_accumulation_steps"),
        ({"lr": 1.0, "learning_rate": 1.0}, TypeError, "given twice"),
        ({"fp16": True}, ConfigError, "use bf16=True"),
        ({"push_to_hub": True}, ConfigError, "nothing is uploaded"),
        ({"warmup_ratio": 2}, ConfigError, "less than 1"),
        ({"learning_rate": "1e-4"}, ConfigError, "learning_rate must be a number, got '1e-4'"),
        ({"learning_rate": float("nan")}, ConfigError, "finite"),
        ({"learning_rate": -1.0}, ConfigError, "negative"),
        ({"per_device_train_batch_size": 0}, ConfigError, "at least 1"),
        ({"per_device_train_batch_size": 2.5}, ConfigError, "a whole number"),
        ({"per_device_train_batch_size": True}, ConfigError, "a whole number, got True"),
        ({"seed": None}, ConfigError, "seed must be a whole number, got None"),
        ({"max_steps": 0}, ConfigError, "num_train_epochs decide"),
        ({"num_train_epochs": 0}, ConfigError, "greater than 0"),
        ({"warmup_steps": 1.5}, ConfigError, "a part of all of them"),
        ({"save_steps": 0}, ConfigError, "save_strategy='no'"),
        ({"eval_strategy": "step"}, ConfigError, "did you mean 'steps'"),
        ({"lr_scheduler_type": "cosin"}, ConfigError, "did you mean 'cosine'"),
        ({"lr_scheduler_kwargs": "{"}, ConfigError, "JSON object"),
        ({"optim": "lion"}, ConfigError, "adamw, adam, sgd, rmsprop"),
        ({"report_to": "wandb"}, ConfigError, "none or tensorboard"),
        ({"device": "tpu"}, ConfigError, "auto, cpu or cuda"),
        ({"device": "cuda:0", "use_cpu": True}, ConfigError, "contradict"),
        ({"adam_beta2": 1.0}, ConfigError, "less than 1"),
        ({"memory_limit": "8 bananas"}, ConfigError, "8GiB"),
        ({"load_best_model_at_end": True}, ConfigError, "set eval_strategy"),
        ({"load_best_model_at_end": True, "eval_strategy": "epoch"}, ConfigError, "set them equal"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 300},
            ConfigError,
            "multiple of eval_steps",
        ),
        ({"save_strategy": "best"}, ConfigError, "set eval_strategy"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, ConfigError, "needs evaluations"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_refusals_are_sentences(settings, error, message):
    with pytest.raises(error, match=message):
        TrainingArguments(**settings)


def test_yaml_habits():
    args = TrainingArguments(eval_strategy=False, max_steps=1e3, plot_loss=True, report_to=["tensorboard"])
    assert (args.eval_strategy, args.max_steps, args.plot_loss, args.report_to) == ("no", 1000, "yes", "tensorboard")
    assert isinstance(args.max_steps, int)
    assert TrainingArguments(resume_from_checkpoint="true").resume_from_checkpoint is True
    assert TrainingArguments(lr_scheduler_kwargs='{"min_lr_rate": 0.1}').lr_scheduler_kwargs == {"min_lr_rate": 0.1}
    assert TrainingArguments("runs/a").output_dir == "runs/a"


def test_best_metric_direction():
    base = {"eval_strategy": "steps", "load_best_model_at_end": True}
    assert TrainingArguments(**base).metric_for_best_model == "loss"
    assert TrainingArguments(**base).greater_is_better is False
    assert TrainingArguments(**base, metric_for_best_model="accuracy").greater_is_better is True
    assert TrainingArguments(**base, metric_for_best_model="eval_bits_per_byte").greater_is_better is False


def test_warmup_below_one_is_a_part():
    assert TrainingArguments(warmup_steps=0.1).get_warmup_steps(101) == 11
    assert TrainingArguments(warmup_steps=7).get_warmup_steps(101) == 7
    assert TrainingArguments().get_warmup_steps(101) == 0


def test_json_round_trip(tmp_path):
    args = TrainingArguments("out", learning_rate=1.1e-5, lr_scheduler_kwargs={"power": 2.0}, eval_strategy="epoch")
    path = tmp_path / "training_args.json"
    assert args.to_json(path) == path.read_text()
    assert TrainingArguments.from_json(path) == args
    assert TrainingArguments.from_json(args.to_json()) == args
    assert dataclasses.replace(args, seed=7).seed == 7
    with pytest.raises(ConfigError, match="JSON object"):
        TrainingArguments.from_json("{1}")
    assert json.loads(args.to_json())["output_dir"] == "out"


def test_every_field_has_a_help_text():
    tree = ast.parse(inspect.getsource(arguments))
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
    for field, following in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign):
            text = following.value.value if isinstance(following, ast.Expr) else None
            assert text and text.endswith(".") and "\n" not in text, field.target.id


def test_command_line_from_the_dataclass():
    tyro = pytest.importorskip("tyro")
    flags = ["--learning_rate", "1e-3", "--eval-strategy", "epoch", "--lr_scheduler_kwargs", "min_lr_rate", "0.1"]
    args = tyro.cli(TrainingArguments, args=[*flags, "--resume_from_checkpoint", "true", "--max_steps", "5"])
    assert (args.learning_rate, args.eval_strategy, args.max_steps) == (1e-3, "epoch", 5)
    assert args.lr_scheduler_kwargs == {"min_lr_rate": 0.1}
    assert args.resume_from_checkpoint is True


@pytest.mark.parametrize("text, size", [("8GiB", 8 << 30), ("500 MB", 500_000_000), ("2e9", 2 * 10**9), ("1.5k", 1500)])
def test_parse_bytes(text, size):
    assert parse_bytes(text) == size
