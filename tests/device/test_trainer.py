"""Whole runs: losses, checkpoints from one device to the other, the trainer's report."""

from __future__ import annotations

import numpy as np
import pytest

from llmcore import _core
from llmcore.errors import ConfigError
from llmcore.optim import AdamW
from llmcore.training.metrics_log import read_metrics

from .tiny import gpt2, trainer_of


@pytest.mark.parametrize("bf16, tolerance", [(False, 1e-5), (True, 1e-3)], ids=["float32", "bfloat16"])
def test_ten_steps_have_the_losses_of_the_cpu(tmp_path, bf16, tolerance):
    losses = {}
    for device in ("cpu", "cuda"):
        model = gpt2(0.1, std=0.02)  # GPT-2's own
        trainer = trainer_of(tmp_path / device, model, max_steps=10, device=device, bf16=bf16, learning_rate=1e-3)
        losses[device] = [step.loss for step in trainer]
        assert trainer.model.device.startswith(device)
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=tolerance)
    assert losses["cpu"][-1] < losses["cpu"][0] - 0.05


@pytest.mark.parametrize("first, second", [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_checkpoint_goes_on_on_the_other_device(tmp_path, first, second):
    settings = dict(gradient_accumulation_steps=2, logging_steps=1, learning_rate=1e-3)
    unbroken = trainer_of(tmp_path / "a", gpt2(0.1), max_steps=4, device="cpu", **settings)
    unbroken.train()
    trainer_of(
        tmp_path / "b", gpt2(0.1), max_steps=4, device=first, save_strategy="steps", save_steps=2, **settings
    ).train()
    resumed = trainer_of(tmp_path / "b", gpt2(0.1, seed=9), max_steps=4, device=second, **settings)
    resumed.train(str(tmp_path / "b" / "checkpoint-2"))
    assert resumed.model.device.startswith(second)
    losses = [
        [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (unbroken, resumed)
    ]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    ids = np.arange(8)[None]
    logits = [trainer.model.to("cpu").eval()(ids).logits.numpy() for trainer in (unbroken, resumed)]
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-4, atol=1e-4)


def test_a_bfloat16_run_goes_on_in_float32_from_its_masters(tmp_path):
    trainer = trainer_of(tmp_path, gpt2(), max_steps=2, device="cuda", bf16=None, save_strategy="steps", save_steps=2)
    trainer.train()
    assert trainer.model.dtype == _core.DType.bfloat16  # what None means on a GPU
    masters = {name: value for name, value in trainer.optimizer.state_dict().items() if name.endswith(".master")}
    resumed = trainer_of(tmp_path, gpt2(seed=9), max_steps=2, device="cpu", bf16=None)
    resumed.train(True)
    assert resumed.model.dtype == _core.DType.float32
    for name, parameter in resumed.model.named_parameters():
        np.testing.assert_array_equal(parameter.numpy(), masters[f"{name}.master"])


def test_report_plan_and_speed_are_the_devices(tmp_path, caplog):
    with caplog.at_level("INFO", "llmcore"):
        trainer = trainer_of(tmp_path, gpt2(), max_steps=2, device="cuda", logging_steps=1)
        trainer.train()
    facts = _core.device_facts("cuda")
    assert f"cuda:0 ({facts['name']})" in caplog.text and "iB (cuda:0)" in caplog.text
    plan = trainer.prepare()
    assert plan.device == "cuda:0" and 0.9 * facts["free_bytes"] <= plan.available <= facts["total_bytes"]
    entry = read_metrics(tmp_path)[0]
    assert entry["tokens_per_second"] > 0 and 0 < entry["percent_of_matmul_peak"] <= 100


def test_evaluation_and_the_best_model(tmp_path):
    results = {}
    for device in ("cpu", "cuda"):
        trainer = trainer_of(tmp_path / device, gpt2(), max_steps=2, device=device)
        trainer.eval_dataset = trainer.train_dataset
        trainer.train()
        results[device] = trainer.evaluate()["eval_loss"]
    assert results["cuda"] == pytest.approx(results["cpu"], rel=1e-5)


def test_one_wait_in_an_update(tmp_path, monkeypatch):
    """The host reads loss and norm together; nothing else makes it wait."""
    trainer = trainer_of(tmp_path, gpt2(0.1), max_steps=3, device="cuda", gradient_accumulation_steps=2)
    reads = []
    for name in ("numpy", "item", "to"):
        original = getattr(_core.Tensor, name)

        def counted(tensor, *arguments, name=name, original=original):
            if tensor.device != "cpu":
                reads.append(name)
            return original(tensor, *arguments)

        monkeypatch.setattr(_core.Tensor, name, counted)
    for step in trainer:
        assert [name for name in reads if name != "to"] == ["numpy"], step
        reads.clear()


def test_an_optimizer_and_its_model_stay_together(tmp_path):
    model = gpt2()
    optimizer = AdamW(model)
    with pytest.raises(ConfigError, match="the optimizer was made for the model on cpu, .*make it after model.to"):
        type(trainer_of(tmp_path, gpt2()))(
            model, trainer_of(tmp_path, gpt2(), device="cuda").args, optimizers=(optimizer, None)
        )
