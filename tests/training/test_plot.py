"""The loss picture."""

from __future__ import annotations

import json
import math

import pytest

from llmcore.errors import ConfigError
from llmcore.training import plot
from llmcore.training.arguments import TrainingArguments
from llmcore.training.callbacks import TrainerControl, TrainerState
from llmcore.training.plot import PlotCallback, plot_histories, plot_runs


def history(seed=0.0):
    entries = []
    for step in range(1, 201):
        loss = 2 + 8 / (1 + step / 20) + 0.3 * math.sin(step * 7.1 + seed)
        entries.append({"loss": loss if step != 50 else math.nan, "step": step})
        if step % 25 == 0:
            entries.append({"eval_loss": 2.2 + 8 / (1 + step / 20), "step": step})
    return entries


def test_picture_has_labels_legend_and_both_curves(tmp_path):
    pytest.importorskip("matplotlib")
    svg = plot_histories({"": history()}, tmp_path / "loss.svg", "a run").read_text()
    for label in ("step (optimizer updates)", "loss (nats per token)", "training loss", "evaluation loss", "a run"):
        assert f"<!-- {label}" in svg
    png = plot_histories({"": history()}, tmp_path / "deep" / "loss.png")
    assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 10_000


def test_several_runs_are_told_apart(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history()))
    svg = plot_runs([tmp_path / "small", tmp_path / "large" / "metrics.jsonl"], tmp_path / "both.svg").read_text()
    assert "small: training loss" in svg and "large: evaluation loss" in svg


def test_nothing_to_draw_is_a_sentence(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError, match="no loss so far"):
        plot_histories({"": [{"step": 1}]}, tmp_path / "loss.png")
    with pytest.raises(ConfigError, match="at least one run"):
        plot_runs([], tmp_path / "loss.png")


def test_callback_draws_as_asked(tmp_path):
    pytest.importorskip("matplotlib")
    state = TrainerState(log_history=history())
    for choice, drawn in (("no", False), ("auto", True), ("yes", True)):
        args = TrainingArguments(str(tmp_path / choice), plot_loss=choice)
        PlotCallback().on_train_begin(args, state, TrainerControl())
        PlotCallback().on_train_end(args, state, TrainerControl())
        assert (tmp_path / choice / "loss.png").exists() == drawn


def test_missing_matplotlib_is_one_sentence_and_only_if_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "has_matplotlib", lambda: False)
    state = TrainerState(log_history=history())
    PlotCallback().on_train_begin(TrainingArguments(str(tmp_path)), state, TrainerControl())
    PlotCallback().on_train_end(TrainingArguments(str(tmp_path)), state, TrainerControl())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"pip install 'llmcore\[plot\]'"):
        PlotCallback().on_train_begin(TrainingArguments(str(tmp_path), plot_loss="yes"), state, TrainerControl())
    with pytest.raises(ConfigError, match=r"pip install 'llmcore\[plot\]'"):
        plot_histories({"": history()}, tmp_path / "loss.png")
