"""The command line before a verb runs: help, unknown words, what is imported, and what the README promises."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llmcore.cli.command import VERBS
from llmcore.cli.config_schema import _CLASSES, schema_of
from llmcore.cli.options import parse
from tests.cli.helpers import ENVIRONMENT, run, run_json

ROOT = Path(__file__).resolve().parents[2]


def test_help_lists_every_verb(tmp_path):
    for arguments in ([], ["--help"], ["-h"]):
        text = run(*arguments, cwd=tmp_path).stdout
        assert all(verb in text for verb in VERBS)
    assert re.fullmatch(r"llmcore \d+\.\d+\.\d+\n", run("--version", cwd=tmp_path).stdout)


def test_help_imports_nothing_heavy(tmp_path):
    """That is what keeps --help fast: tyro and dataclasses, no numpy, no kernels, no YAML."""
    script = f"""
import sys
from llmcore.cli.command import run
for verb in {list(VERBS)!r}:
    assert run([verb, "--help"]) == 0, verb
heavy = ["numpy", "tokenizers", "safetensors", "tqdm", "yaml", "matplotlib", "rich", "llmcore._core"]
print([name for name in heavy if name in sys.modules], file=sys.stderr)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.strip() == "[]"
    assert "--learning_rate FLOAT" in result.stdout and "Peak learning rate." in result.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["pretran"], "there is no verb 'pretran'; did you mean 'pretrain'?"),
        (["xyz"], "there are quickstart, pretrain"),
        (["pretrain", "--learning-rat", "1"], "pretrain has no option --learning_rat; did you mean --learning_rate?"),
        (["generate", "out", "--promt", "x"], "generate has no option --promt; did you mean --prompt?"),
        (["pretrain"], "pretrain needs text"),
        (["pretrain", "gpt2-mni", "--train_file", "x"], "did you mean 'gpt2-mini'?"),
        (["pretrain", "--train_file", "absent.txt"], "'absent.txt' does not exist"),
        (["pretrain", "--train_file", "x", "--learning_rate", "-1"], "learning_rate must not be negative"),
        (["generate", "absent", "--prompt", "x"], "absent"),
        (["generate"], "generate needs the folder of a model"),
        (["evaluate", "absent"], "evaluate needs a model and text"),
        (["prepare"], "prepare needs text"),
        (["tokenizer"], "llmcore tokenizer train DATA"),
        (["plot", "absent"], "absent"),
        (["config-schema", "env"], "there is a schema for"),
    ],
    ids=" ".join,
)
def test_a_users_error_is_one_sentence(tmp_path, words, sentence):
    result = run(*words, cwd=tmp_path, status=2, text="")
    assert sentence in result.stderr and result.stdout == ""
    assert result.stderr.startswith("llmcore: ") and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "llmcore", "prepare", "--debug"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2 and "Traceback" in result.stderr


def test_env_names_versions_and_nobody(tmp_path):
    facts = run_json("env", cwd=tmp_path)
    assert {"llmcore", "python", "cpu", "instruction_set", "threads", "memory_available", "cuda", "numpy"} <= set(facts)
    text = run("env", cwd=tmp_path).stdout
    assert facts["cpu"] in text and str(Path.home()) not in text and str(ROOT) not in text


def test_presets_count_their_parameters(tmp_path):
    from llmcore.models import PRESETS

    presets = run_json("presets", cwd=tmp_path)
    assert set(presets) == set(PRESETS)
    assert presets["gpt2"]["parameters"] == 124_439_808  # as published
    assert presets["smollm2-135m"]["parameters"] == 134_515_008
    text = run("presets", cwd=tmp_path).stdout
    assert "gpt2-mini" in text and "llama-mini" in text


@pytest.mark.parametrize("verb", _CLASSES)
def test_schemas_describe_every_option(verb, tmp_path):
    options = getattr(importlib.import_module(f"llmcore.cli.{verb}"), _CLASSES[verb])
    schema = schema_of(options, verb)
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}
    kinds["null"] = type(None)
    for name, entry in schema["properties"].items():
        assert entry["description"], name
        found = entry["anyOf"] if "anyOf" in entry else [entry]
        types = [t for e in found if "type" in e for t in ([e["type"]] if isinstance(e["type"], str) else e["type"])]
        choices = [value for e in found for value in e.get("enum", [])]
        default = entry["default"]
        assert default in choices or any(isinstance(default, kinds[t]) for t in types), name
    assert json.loads(run("config-schema", verb, cwd=tmp_path).stdout) == schema


def test_the_schemas_defaults_are_a_valid_file(tmp_path):
    """What the schema says is what --config takes."""
    module = importlib.import_module("llmcore.cli.pretrain")
    schema = schema_of(module.PretrainOptions, "pretrain")
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({name: entry["default"] for name, entry in schema["properties"].items()}))
    options = parse(module.PretrainOptions, ["--config", str(path)], "pretrain")
    options.config, options.given = None, ()
    assert options == module.PretrainOptions()


# ------------------------------------------------------------------------------------------------------------- README

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_has_its_two_commands():
    first, second = re.findall(r"<!-- command: \w+ -->\n```sh\n(.*?)\n```", README, re.DOTALL)
    begin = "python3 -m venv .venv && . .venv/bin/activate && "
    assert first == begin + 'pip install ".[plot]" && llmcore quickstart'
    assert second == begin + 'pip install -e ".[test]" && pytest -n 2'


def readme_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [part.strip() for block in blocks for line in block.splitlines() for part in line.split("&&")]
    return [line for line in lines if line.startswith("llmcore ")]


@pytest.mark.parametrize("command", readme_commands())
def test_every_command_of_the_readme_is_understood(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("num_train_epochs: 1\n")
    _, verb, *words = shlex.split(command, comments=True)
    module = importlib.import_module(f"llmcore.cli.{VERBS[verb][0]}")
    parse(getattr(module, _CLASSES[verb]), words, verb)


def test_the_readme_names_files_that_exist():
    for name in re.findall(r"`((?:llmcore|csrc|tests|docs)/[\w/.]+)`|\]\(([\w/.]+)\)", README):
        path = next(filter(None, name))
        assert (ROOT / path).exists(), path
