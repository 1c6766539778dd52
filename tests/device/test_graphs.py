"""Steps that are replayed as CUDA graphs give the bits of steps done kernel by kernel."""

from __future__ import annotations

import numpy as np
import pytest

from llmcore import functional as F
from llmcore.training import step_graphs
from tests.training.helpers import assert_equal_weights

from .tiny import VOCABULARY, gpt2, random_ids, trainer_of


def run(folder, graphs: bool, **settings):
    """An epoch has two updates of three micro-batches; the last of these is shorter, so there are fewer tokens."""
    settings = dict(num_train_epochs=3, gradient_accumulation_steps=3, blocks=11, **settings)
    trainer = trainer_of(folder, gpt2(0.1), device="cuda", cuda_graphs=graphs, **settings)
    return trainer, [(step.loss, step.grad_norm) for step in trainer]


@pytest.mark.parametrize("settings", [{}, dict(bf16=True, activation_checkpointing=True)], ids=["plain", "recomputed"])
def test_the_same_bits_with_dropout_accumulation_and_another_shape(tmp_path, settings, caplog):
    eager, expected = run(tmp_path / "a", False, **settings)
    replayed, found = run(tmp_path / "b", True, **settings)
    assert found == expected and len(found) == 6
    assert_equal_weights(replayed.model, eager.model)
    assert eager._graphs is None and replayed._graphs.replays == 13
    # first and later micro-batches of either number of tokens, and the short one: each was seen once before
    assert len(replayed._graphs._captured) == 5
    assert replayed.model.generator.state() == eager.model.generator.state()
    assert "CUDA graphs" not in caplog.text


def test_masks_are_those_of_the_step(tmp_path):
    """With a learning rate of 0 and the same batch, only the masks make the losses differ."""
    settings = dict(blocks=2, max_steps=5, learning_rate=0.0, train_sampling_strategy="sequential", device="cuda")
    for dropout, different in ((0.3, 5), (0.0, 1)):
        trainer = trainer_of(tmp_path / str(dropout), gpt2(dropout), **settings)
        losses = [step.loss for step in trainer]
        assert len(set(losses)) == different and trainer._graphs.replays == 4


def test_what_cannot_be_recorded_is_done_without_and_said(tmp_path, caplog, monkeypatch):
    trainer = trainer_of(tmp_path / "a", gpt2(), max_steps=2, device="cuda")
    trainer.compute_loss_func = lambda outputs, labels, num_items_in_batch: F.mean(outputs.logits)
    trainer.train()
    assert trainer._graphs is None
    assert "without CUDA graphs: the loss is not the model's own" in caplog.text

    model = gpt2()
    loss_of = model.loss_of

    def looks_at_its_loss(batch):
        loss = loss_of(batch)  # has written gradients, too
        loss.item()
        return loss

    monkeypatch.setattr(model, "loss_of", looks_at_its_loss)
    trainer = trainer_of(tmp_path / "b", model, max_steps=3, device="cuda")
    losses = [step.loss for step in trainer]
    assert trainer._graphs.replays == 0 and caplog.text.count("CUDA graphs are off") == 1
    assert "a copy to the CPU cannot be captured into a CUDA graph" in caplog.text
    assert losses == [step.loss for step in trainer_of(tmp_path / "c", gpt2(), max_steps=3, device="cuda")]


def test_shapes_that_never_come_again_are_said_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(step_graphs, "_PATIENCE", 3)
    trainer = trainer_of(tmp_path, gpt2(), max_steps=9, device="cuda", lr_scheduler_type="constant")
    for length in range(3, 8):
        ids = random_ids(1, length)
        trainer.training_step({"input_ids": ids, "labels": ids}, length - 1)
        trainer.optimizer_step()
    assert caplog.text.count("CUDA graphs have nothing to repeat") == 1
    assert "input_ids (1, 5)" in caplog.text and "num_items_in_batch 4" in caplog.text


def test_an_id_outside_the_vocabulary_is_found_in_a_replay(tmp_path):
    trainer = trainer_of(tmp_path, gpt2(), max_steps=9, device="cuda", lr_scheduler_type="constant")
    for value in (1, 2, 3, VOCABULARY):
        ids = np.full((1, 4), value)
        if value == VOCABULARY:
            with pytest.raises(IndexError, match=str(VOCABULARY)):
                trainer.training_step({"input_ids": ids, "labels": np.ones_like(ids)}, 3)
        else:
            trainer.training_step({"input_ids": ids, "labels": ids}, 3)
            trainer.optimizer_step()
    assert trainer._graphs.replays == 3
