"""Flags, YAML and aliases become settings."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import tyro

from llmcore.cli.options import CommonOptions, TrainingFlags, UsageError, load_yaml, parse
from llmcore.errors import ConfigError


@dataclasses.dataclass(kw_only=True)
class Options(CommonOptions):
    """Options as a verb has them."""

    preset: tyro.conf.Positional[str] = "small"
    """A word."""

    files: list[str] = dataclasses.field(default_factory=list)
    """Words."""

    prompt: str | None = None
    """Text."""

    training: TrainingFlags = dataclasses.field(default_factory=lambda: TrainingFlags(learning_rate=6e-4))


def settings(*argv: str) -> Options:
    return parse(Options, argv, "verb")


def test_defaults_are_those_of_the_verb():
    options = settings()
    assert (options.preset, options.files, options.prompt, options.given) == ("small", [], None, ())
    assert options.training.learning_rate == 6e-4


def test_hyphen_and_underscore_are_equal():
    assert settings("--learning-rate", "1e-3").training.learning_rate == 1e-3
    assert settings("--learning_rate=1e-3").training.learning_rate == 1e-3


def test_flags_of_every_kind():
    options = settings(
        *("big", "--files", "a", "-", "c", "--max_steps", "-1", "--bf16", "--use-cpu", "yes", "--json"),
        *("--lr_scheduler_kwargs", '{"min_lr_rate": 0.1}', "--resume_from_checkpoint", "--label_names", "x", "y"),
    )
    args = options.training.arguments()
    assert (options.preset, options.files, options.json) == ("big", ["a", "-", "c"], True)
    assert (args.max_steps, args.bf16, args.use_cpu, args.resume_from_checkpoint) == (-1, True, True, True)
    assert args.lr_scheduler_kwargs == {"min_lr_rate": 0.1} and args.label_names == ["x", "y"]
    assert {"max_steps", "bf16", "files"} <= set(options.given)


@pytest.mark.parametrize("words", [["--bf16", "false"], ["--no-bf16"], ["--bf16=False"], ["--bf16", "0"]])
def test_ways_to_say_no(words):
    assert settings(*words).training.bf16 is False


def test_whole_numbers_may_have_an_exponent():
    assert settings("--max_steps", "1e4").training.max_steps == 10_000


def test_a_bare_flag_leaves_the_next_word_alone():
    options = settings("--json", "big")
    assert options.json and options.preset == "big"


@pytest.mark.parametrize("text", ["--- heading", "-x", "-1", "two\nlines", "a=b"])
def test_values_that_look_like_flags(text):
    assert settings("--prompt", text).prompt == text
    assert settings(f"--prompt={text}").prompt == text


def test_aliases_become_the_name_with_one_note():
    with pytest.warns(FutureWarning, match="'lr' is accepted as another name of 'learning_rate'") as notes:
        options = settings("--lr", "1e-3")
    assert len(notes) == 1
    assert options.training.learning_rate == 1e-3 and options.given == ("learning_rate",)
    with pytest.warns(FutureWarning):
        assert settings("--warmup_ratio", "0.1").training.warmup_steps == 0.1
    with pytest.warns(FutureWarning):
        assert settings("--no_cuda").training.use_cpu is True
    with pytest.warns(FutureWarning, match="ignored"):
        settings("--torch_compile")


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(UsageError, match="verb has no option --learning_rat; did you mean --learning_rate?"):
        settings("--learning-rat", "1")
    with pytest.raises(UsageError, match="did you mean --files?"):
        settings("--fils", "1")
    with pytest.raises(UsageError, match="--help lists them"):
        settings("--zzzzqqq")


def test_refused_and_unavailable_names_say_what_to_write():
    with pytest.raises(UsageError, match="micro-batches.*max_steps"):
        settings("--iters", "100")
    with pytest.raises(ConfigError, match="use bf16=True"):
        settings("--fp16", "true")


def test_bad_values_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        settings("--learning_rate", "fast")
    assert stop.value.code == 2 and "learning_rate" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="learning_rate must not be negative"):
        settings("--learning_rate", "-1").training.arguments()


YAML = """
preset: tiny
learning-rate: 1e-5
eval_strategy: no
lr_scheduler_kwargs: {min_lr_rate: 0.1}
files: [a.txt, b.txt]
bf16: true
max_steps: 1e3
prompt: "- not a flag"
save_total_limit: null
"""


def test_a_file_sets_what_flags_do_not(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(YAML)
    options = settings("--config", str(path))
    args = options.training.arguments()
    assert (options.preset, options.files, options.prompt) == ("tiny", ["a.txt", "b.txt"], "- not a flag")
    assert (args.learning_rate, args.eval_strategy, args.bf16, args.max_steps) == (1e-5, "no", True, 1000)
    assert args.lr_scheduler_kwargs == {"min_lr_rate": 0.1} and args.save_total_limit is None
    options = settings("large", "--config", str(path), "--learning_rate", "3e-4", "--files", "c.txt", "--no_bf16")
    assert (options.preset, options.files) == ("large", ["c.txt"])
    assert (options.training.learning_rate, options.training.bf16) == (3e-4, False)
    assert options.training.eval_strategy == "no"


def test_aliases_in_a_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("lr: 1e-3\nepochs: 2\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = settings("--config", str(path), "--learning_rate", "5e-3")
    assert (options.training.learning_rate, options.training.num_train_epochs) == (5e-3, 2.0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("learning_rat: 1", "verb has no option 'learning_rat'; did you mean learning_rate?"),
        ("iters: 10", "max_steps"),
        ("a: [1", "line 1: this is not YAML"),
        ("- 1\n- 2", "must hold `name: value` lines, got list"),
        ("lr: 1e-3\nlearning_rate: 1e-4", "sets 'learning_rate' twice"),
    ],
)
def test_broken_files_are_refused(tmp_path, text, sentence):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with warnings.catch_warnings(), pytest.raises(ConfigError) as error:
        warnings.simplefilter("ignore")
        settings("--config", str(path))
    assert sentence in str(error.value) and "run.yaml" in str(error.value)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        settings("--config", str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("1E5", 1e5), ("-2.5e+3", -2500.0), (".5e1", 5.0), ("1e", "1e"), ("e5", "e5"), ("12", 12)],
)
def test_numbers_in_yaml(text, value):
    loaded = load_yaml(text, "x")
    assert loaded == value and type(loaded) is type(value)


def test_yaml_runs_nothing():
    with pytest.raises(ConfigError, match="not YAML"):
        load_yaml("!!python/object/apply:os.system ['true']", "x")
