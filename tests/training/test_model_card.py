"""The model card."""

from __future__ import annotations

import sys

import pytest
import yaml

from llmcore.training.arguments import TrainingArguments
from llmcore.training.callbacks import TrainerState
from llmcore.training.model_card import command_line, model_card


def test_card_names_data_settings_results_and_command():
    args = TrainingArguments("runs/poems", learning_rate=6e-4, max_steps=300)
    state = TrainerState(
        epoch=1.5, global_step=300, num_input_tokens_seen=1_228_800, log_history=[{"loss": 2.5, "step": 300}]
    )
    card = model_card(
        args,
        state,
        architecture="GPT2LMHeadModel",
        num_parameters=1_234_567,
        vocabulary_size=512,
        context_length=128,
        data="3 documents, 10,000 tokens",
        metrics={"eval_loss": 2.25, "eval_runtime": 1.0},
        runtime=61.0,
        command="llmcore pretrain gpt2-mini --train_file 'my poems.txt'",
    )
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["pipeline_tag"] == "text-generation"
    for text in (
        "# poems",
        "1.23 M parameters, a context of 128 tokens, a vocabulary of 512",
        "300 updates, 1.50 epochs, 1,228,800 tokens, 1 min 01 s",
        "llmcore pretrain gpt2-mini --train_file 'my poems.txt'",
        "3 documents, 10,000 tokens",
        "| eval_loss | 2.2500 |",
        "| last training loss | 2.5000 |",
        "| `learning_rate` | 0.0006 |",
        "| `max_steps` | 300 |",
        "| `seed` | 42 |",
    ):
        assert text in body
    assert "eval_runtime" not in body and "adam_epsilon" not in body


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["/v/bin/python3", "/v/bin/llmcore", "pretrain", "a b.txt"], "llmcore pretrain 'a b.txt'"),
        (["python", "train.py", "--lr", "1"], "python train.py --lr 1"),
        (["/usr/bin/python3", "-m", "llmcore", "quickstart"], "python3 -m llmcore quickstart"),
        (["python", "-c", "import llmcore"], None),
        (["python", "-m", "ipykernel_launcher", "-f", "x"], None),
        (["python"], None),
    ],
)
def test_command_line(monkeypatch, argv, expected):
    monkeypatch.setattr(sys, "orig_argv", argv)
    assert command_line() == expected
