"""GenerationConfig: transformers' names and defaults, its file, and what it refuses."""

from __future__ import annotations

import dataclasses
import json

import pytest

from llmcore.errors import ConfigError
from llmcore.generation import GenerationConfig


def test_names_and_defaults_are_those_of_transformers():
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = vars(transformers.GenerationConfig())
    defaults = transformers.GenerationConfig._get_default_generation_params()
    own = {"seed", "slide_context", "other"}
    different = {"max_new_tokens": 256, "max_length": None, "min_new_tokens": 0}  # theirs: none, 20, none
    for field in dataclasses.fields(GenerationConfig):
        if field.name in own:
            assert field.name not in theirs
        elif field.name in different:
            assert field.name in theirs and field.default == different[field.name]
        else:
            assert field.name in theirs and field.default == defaults.get(field.name), field.name


def test_every_setting_of_transformers_is_known():
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    defaults = transformers.GenerationConfig._get_default_generation_params()
    for name, value in vars(transformers.GenerationConfig()).items():
        if not name.startswith("_"):
            for setting in (value, defaults.get(name)):
                GenerationConfig().replace(**{name: setting}).check_available()


def test_file_round_trip(tmp_path):
    config = GenerationConfig(do_sample=True, temperature=0.7, stop_strings=["\n"], eos_token_id=[1, 2], seed=3)
    config.save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path) == config
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert saved == {"do_sample": True, "temperature": 0.7, "stop_strings": ["\n"], "eos_token_id": [1, 2], "seed": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["generation_config.json"]


def test_files_of_transformers(tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GenerationConfig(
        do_sample=True, temperature=0.6, top_p=0.9, eos_token_id=5, suppress_tokens=[3], cache_implementation="static"
    )
    theirs.save_pretrained(tmp_path)
    config = GenerationConfig.from_pretrained(tmp_path)
    assert (config.do_sample, config.temperature, config.top_p, config.eos_token_ids) == (True, 0.6, 0.9, [5])
    assert config.max_new_tokens == 256
    with pytest.raises(ConfigError, match=r"suppress_tokens=\[3\] would change the text"):
        config.check_available()
    config.replace(suppress_tokens=None).check_available()
    config.save_pretrained(tmp_path)  # nothing is lost on the way
    again = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert (again.temperature, again.suppress_tokens, again.cache_implementation) == (0.6, [3], "static")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(temperature=-1.0), "temperature must be at least 0, got -1.0"),
        (dict(temperature="hot"), "temperature must be a number, got 'hot'"),
        (dict(temperature=float("nan")), "temperature must be at least 0"),
        (dict(top_p=1.5), "top_p must be from 0 to 1, got 1.5"),
        (dict(min_p=-0.1), "min_p must be from 0 to 1"),
        (dict(top_k=-1), "top_k must be at least 0, got -1"),
        (dict(top_k=2.5), "top_k must be an integer, got 2.5"),
        (dict(max_new_tokens=0), "max_new_tokens must be at least 1, got 0"),
        (dict(max_new_tokens=True), "max_new_tokens must be an integer, got True"),
        (dict(repetition_penalty=0), "repetition_penalty must be above 0"),
        (dict(do_sample="yes"), "do_sample must be True or False, got 'yes'"),
        (dict(stop_strings=["a", ""]), "stop_strings must be strings of at least one character, got ''"),
        (dict(eos_token_id=[1, -2]), "eos_token_id must be at least 0, got -2"),
        (dict(seed=-1), "seed must be at least 0"),
    ],
)
def test_bad_values_say_what_was_expected(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        GenerationConfig(**settings)


def test_broken_files(tmp_path):
    path = tmp_path / "generation_config.json"
    for content, sentence in (("{", "not valid JSON"), ("[1]", "JSON object, got list"), ('{"top_p": 3}', "top_p")):
        path.write_text(content)
        with pytest.raises(ConfigError, match=sentence) as error:
            GenerationConfig.from_pretrained(tmp_path)
        assert str(path) in str(error.value)
