"""The trainer with GPT-2 on token shards: learning, resume with dropout, threads, bfloat16, files for transformers."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from llmcore import _core
from llmcore.data.loader import BlockDataset
from llmcore.data.vocabularies import byte_tokenizer
from llmcore.errors import DataError, OutOfMemoryError
from llmcore.models import GPT2Config, GPT2LMHeadModel
from llmcore.training.arguments import TrainingArguments
from llmcore.training.checkpoint import load_checkpoint
from llmcore.training.metrics_log import read_metrics
from llmcore.training.trainer import Trainer

from .helpers import assert_equal_weights, weights_of

TEXT = "the quick brown fox jumps over the lazy dog. " * 60
TOKENIZER = byte_tokenizer()
BF16 = _core.DType.bfloat16


class Shard:
    """A token stream in memory, with what `BlockDataset` asks of a shard."""

    def __init__(self, text: str) -> None:
        self.tokens = TOKENIZER.encode(text)

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, start: int, count: int) -> np.ndarray:
        return self.tokens[start : start + count]


def make_model(dropout: float = 0.0, seed: int = 1, **config) -> GPT2LMHeadModel:
    sizes = {"vocab_size": TOKENIZER.vocab_size, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    ends = {"bos_token_id": TOKENIZER.eos_token_id, "eos_token_id": TOKENIZER.eos_token_id}
    return GPT2LMHeadModel(GPT2Config(**{**sizes, **drops, **ends, **config}), seed=seed)


def make_trainer(folder, model=None, dataset=None, **settings) -> Trainer:
    keywords = {"eval_dataset": settings.pop("eval_dataset", None)}
    settings = {"learning_rate": 5e-3, "per_device_train_batch_size": 8, "plot_loss": "no", **settings}
    return Trainer(
        model if model is not None else make_model(),
        TrainingArguments(str(folder), **settings),
        train_dataset=dataset if dataset is not None else BlockDataset([Shard(TEXT)], 32),
        processing_class=TOKENIZER,
        **keywords,
    )


def test_learns_and_reports(tmp_path, caplog):
    evaluation = BlockDataset([Shard(TEXT)], 32, keep_tail=True)
    with caplog.at_level("INFO", "llmcore"):
        trainer = make_trainer(tmp_path, max_steps=60, eval_dataset=evaluation, eval_strategy="steps", eval_steps=30)
        trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] < 1.6 < 4.0 < trainer.state.log_history[0]["loss"]
    # one byte is one token here: bits per byte are bits per token
    assert metrics["eval_bits_per_byte"] == pytest.approx(metrics["eval_loss"] / np.log(2), rel=1e-6)
    assert metrics["eval_perplexity"] == pytest.approx(np.exp(metrics["eval_loss"]))
    logged = read_metrics(tmp_path)[1]
    assert 0 < logged["percent_of_matmul_peak"] < 100 and logged["tokens_per_second"] > 0
    for text in ("blocks of 32 tokens", "sample: 'the quick", "memory: weights", "M parameters", "60 updates"):
        assert text in caplog.text


@pytest.mark.parametrize(
    "settings", [{}, {"activation_checkpointing": True}, {"bf16": True}], ids=["float32", "checkpointing", "bf16"]
)
def test_resume_with_dropout_equals_the_unbroken_run(tmp_path, settings):
    settings = {"max_steps": 8, "save_steps": 3, "gradient_accumulation_steps": 2, **settings}
    unbroken = make_trainer(tmp_path / "a", make_model(dropout=0.2), **settings)
    unbroken.train()
    (tmp_path / "b").mkdir()
    shutil.copytree(tmp_path / "a" / "checkpoint-3", tmp_path / "b" / "checkpoint-3")
    resumed = make_trainer(tmp_path / "b", make_model(dropout=0.2, seed=99), **settings, num_threads=1)
    resumed.train(True)
    assert_equal_weights(resumed.model, unbroken.model)
    for name, array in unbroken.optimizer.state_dict().items():
        np.testing.assert_array_equal(resumed.optimizer.state_dict()[name], array, err_msg=name)
    losses = [
        [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (unbroken, resumed)
    ]
    assert losses[0] == losses[1]


def test_same_bits_for_any_number_of_threads(tmp_path):
    """R-19."""
    threads, first = _core.num_threads(), None
    for count in (1, 2, 3, 4):
        trainer = make_trainer(tmp_path / str(count), make_model(dropout=0.1), max_steps=4, num_threads=count)
        losses = [step.loss for step in trainer]
        first = first or (losses, trainer.model)
        assert losses == first[0]
        assert_equal_weights(trainer.model, first[1])
    assert _core.num_threads() == threads


def test_accumulation_equals_the_full_batch(tmp_path):
    settings = {"max_steps": 5, "optim": "sgd", "learning_rate": 0.5, "train_sampling_strategy": "sequential"}
    whole = make_trainer(tmp_path / "a", **settings)
    parts = make_trainer(tmp_path / "b", **settings, per_device_train_batch_size=1, gradient_accumulation_steps=8)
    whole.train()
    parts.train()
    for name, weights in weights_of(whole.model).items():
        np.testing.assert_allclose(weights_of(parts.model)[name], weights, rtol=0, atol=1e-6, err_msg=name)


def test_bf16_trains_with_float32_masters(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=60, bf16=True)
    trainer.train()
    assert trainer.model.dtype == BF16
    assert trainer.evaluate(BlockDataset([Shard(TEXT)], 32))["eval_loss"] < 1.6
    saved = load_checkpoint(tmp_path / "checkpoint-60").tensors
    assert saved["model"]["transformer.wte.weight"].dtype == np.uint16
    assert saved["optimizer"]["transformer.wte.weight.master"].dtype == np.float32


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_pytorch_step_by_step(tmp_path, smoothing):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = make_model()
    model.save_pretrained(tmp_path / "start")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "start").train()
    decayed = [p for name, p in theirs.named_parameters() if p.ndim > 1 and "wte" not in name and "wpe" not in name]
    others = [p for name, p in theirs.named_parameters() if p.ndim < 2 or "wte" in name or "wpe" in name]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    schedule = transformers.get_scheduler("cosine", optimizer, 3, 20)
    trainer = make_trainer(
        tmp_path / "run",
        model,
        BlockDataset([Shard(TEXT * 2)], 32),  # 21 batches
        max_steps=20,
        learning_rate=1e-3,
        weight_decay=0.1,
        warmup_steps=3,
        lr_scheduler_type="cosine",
        label_smoothing_factor=smoothing,
        train_sampling_strategy="sequential",
    )
    batches = iter(trainer._make_loader(trainer.train_dataset, 8, training=True))
    for step in trainer:
        ids = torch.tensor(next(batches)["input_ids"]).long()
        logits = theirs(ids).logits[:, :-1].reshape(-1, TOKENIZER.vocab_size)
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:].reshape(-1), label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
        assert step.loss == pytest.approx(loss.item(), abs=1e-4)
        assert step.grad_norm == pytest.approx(norm.item(), rel=1e-3)
        assert step.learning_rate == pytest.approx(rate, rel=1e-9)
    assert trainer.state.global_step == 20


def test_checkpoints_and_the_saved_model_load_in_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    trainer = make_trainer(tmp_path, max_steps=3, save_steps=3)
    trainer.train()
    trainer.save_model()
    ids = np.arange(20)[None] % 7 + 40
    ours = trainer.model.eval()(ids).logits.numpy()
    for folder in (tmp_path, tmp_path / "checkpoint-3"):
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
        np.testing.assert_allclose(theirs(torch.tensor(ids)).logits.detach().numpy(), ours, atol=1e-4)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        assert tokenizer("the lazy dog")["input_ids"] == TOKENIZER.encode("the lazy dog").tolist()
    names = {entry.name for entry in tmp_path.iterdir()}
    assert {"README.md", "training_args.json", "trainer_state.json", "metrics.jsonl", "metrics.csv"} <= names
    card = (tmp_path / "README.md").read_text()
    assert "GPT2LMHeadModel" in card and "3 updates" in card and "blocks of 32 tokens" in card
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state["global_step"] == 3


def test_folder_name_as_model(tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    trainer = Trainer(str(tmp_path / "model"), TrainingArguments(str(tmp_path / "run")), tokenizer=TOKENIZER)
    assert isinstance(trainer.model, GPT2LMHeadModel)
    assert trainer.evaluate([{"text": "the lazy dog"}])["eval_loss"] > 4.0


def test_tokenizer_and_model_agree_on_special_tokens(tmp_path):
    """GPT-2's end of text is 50256: a small model that keeps it would never stop, here or in transformers."""
    sizes = {"vocab_size": TOKENIZER.vocab_size, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    fresh = GPT2LMHeadModel(GPT2Config(**sizes))
    assert fresh.generation_config.eos_token_id is None
    trainer = make_trainer(tmp_path, fresh, max_steps=1)
    trainer.train()
    trainer.save_model()
    assert isinstance(trainer.model.generate("the", max_new_tokens=3), str)
    for name in ("config.json", "generation_config.json"):
        saved = json.loads((tmp_path / name).read_text())
        assert saved["eos_token_id"] == TOKENIZER.eos_token_id and saved.get("bos_token_id") is None
    several = make_model()
    several.generation_config = several.generation_config.replace(eos_token_id=[TOKENIZER.eos_token_id, 3])
    assert make_trainer(tmp_path, several).model.generation_config.eos_token_id == [TOKENIZER.eos_token_id, 3]


def test_rows_of_text_are_tokenized_padded_and_trained_on(tmp_path):
    rows = [{"text": "the quick brown fox"}, {"text": "jumps over"}, {"text": "the lazy dog"}] * 4
    trainer = make_trainer(tmp_path, dataset=rows, num_train_epochs=20, per_device_train_batch_size=3)
    trainer.train()
    assert trainer.state.num_input_tokens_seen == 20 * 4 * (20 + 11 + 13)  # padding is not counted
    assert trainer.evaluate(rows)["eval_loss"] < 1.0


def test_run_that_does_not_fit_is_refused_with_settings_that_do(tmp_path):
    settings = {"max_steps": 2, "per_device_train_batch_size": 16}
    needed = make_trainer(tmp_path, **settings, per_device_eval_batch_size=1).prepare().total
    with pytest.raises(OutOfMemoryError, match="per_device_train_batch_size=8 with gradient_accumulation_steps=2"):
        make_trainer(tmp_path, **settings, memory_limit=str(int(0.8 * needed))).train()
    assert list(tmp_path.iterdir()) == []
    halved = make_trainer(tmp_path, **settings, memory_limit=str(int(0.8 * needed)), auto_find_batch_size=True)
    halved.train()
    assert (halved.batch_size, halved.accumulation) == (8, 2)
    assert halved.state.num_input_tokens_seen == 2 * 16 * 32


def test_max_train_tokens_ends_the_schedule_with_the_training(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=100, max_train_tokens=8 * 32 * 5)
    rates = [step.learning_rate for step in trainer]
    assert len(rates) == 5 and rates[-1] == pytest.approx(5e-3 / 5)
    assert trainer.stop_reason is None or "max_train_tokens" in trainer.stop_reason


def test_smoothed_labels_need_no_logits(tmp_path):
    """The head spreads the targets itself, so the logits exist only chunk by chunk with label smoothing, too."""
    trainer = make_trainer(tmp_path, max_steps=1, label_smoothing_factor=0.2)
    batch = BlockDataset([Shard(TEXT)], 32).batch(np.arange(3))
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    assert outputs.logits is None
    by_logits = trainer._smoothed_loss(trainer.model, {"input_ids": batch["input_ids"]}, batch["labels"], None)[1]
    assert loss.item() == pytest.approx(by_logits.item(), rel=1e-5)


def test_padding_on_the_left_is_refused_in_evaluation_too(tmp_path):
    """The likelihood pass has no mask: what stands behind padding on the left would be predicted from it."""
    left = byte_tokenizer()
    left.padding_side = "left"
    trainer = Trainer(make_model(), TrainingArguments(str(tmp_path)), processing_class=left)
    rows = [{"input_ids": [1, 2, 3]}, {"input_ids": [1, 2, 3, 4, 5]}]
    with pytest.raises(DataError, match="padding must be on the right"):
        trainer.evaluate(rows)
    left.padding_side = "right"
    assert trainer.evaluate(rows)["eval_loss"] > 4.0


def test_no_more_than_the_peak_is_reported(tmp_path, monkeypatch):
    """A peak that was measured while the machine was busy is too low; it is measured again before it is believed."""
    asked = []

    def peak(dtype, device, again=False):
        asked.append(again)
        return 4.0 if again else 2.0

    monkeypatch.setattr("llmcore.training.trainer.matmul_peak_flops", peak)
    trainer = Trainer(make_model(), TrainingArguments(output_dir=str(tmp_path)))
    assert trainer._part_of_peak(1.0) == 0.5 and asked == [False]
    assert trainer._part_of_peak(3.0) == 0.75 and asked[-1] is True
    assert trainer._part_of_peak(8.0) == 1.0
