"""LoRA against peft: outputs, gradients and files in both directions; merging; what is trained and saved."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

import llmcore
from llmcore import LoraConfig, PeftModel, get_peft_model
from llmcore.errors import CheckpointError, ConfigError
from llmcore.training.arguments import TrainingArguments
from llmcore.training.trainer import Trainer
from tests.training.helpers import assert_equal_weights

IDS = np.random.default_rng(0).integers(0, 41, (3, 9))


def gpt2() -> llmcore.GPT2LMHeadModel:
    config = llmcore.GPT2Config(vocab_size=41, n_positions=16, n_embd=12, n_layer=2, n_head=2, attn_pdrop=0.0)
    return llmcore.GPT2LMHeadModel(config.replace(embd_pdrop=0.0, resid_pdrop=0.0, initializer_range=0.2))


def llama() -> llmcore.LlamaForCausalLM:
    sizes = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4)
    config = llmcore.LlamaConfig(vocab_size=41, num_key_value_heads=2, max_position_embeddings=16, **sizes)
    return llmcore.LlamaForCausalLM(config.replace(initializer_range=0.2))


def bert() -> llmcore.BertForSequenceClassification:
    sizes = dict(hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2)
    config = llmcore.BertConfig(vocab_size=41, max_position_embeddings=16, num_labels=3, initializer_range=0.2, **sizes)
    config = config.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return llmcore.BertForSequenceClassification(config)


# model, LoraConfig, name of the model's class in transformers
CASES = {
    "gpt2": (gpt2, dict(r=3, bias="all", modules_to_save=["wpe"]), "GPT2LMHeadModel"),
    "gpt2 mlp": (gpt2, dict(r=2, target_modules=["c_fc", "c_proj"], lora_alpha=5), "GPT2LMHeadModel"),
    "llama": (llama, dict(r=4, target_modules="all-linear", use_rslora=True), "LlamaForCausalLM"),
    "llama head": (llama, dict(r=2, target_modules=["lm_head", "q_proj"]), "LlamaForCausalLM"),
    "llama expression": (llama, dict(target_modules=r".*1\.self_attn\.(k|o)_proj", r=2), "LlamaForCausalLM"),
    "bert": (bert, dict(r=2, task_type="SEQ_CLS", bias="lora_only"), "BertForSequenceClassification"),
    "bert patterns": (
        bert,
        dict(
            *(),
            target_modules=["query", "dense"],
            exclude_modules=["pooler.dense"],
            rank_pattern={"query": 5},
            alpha_pattern={"intermediate.dense": 3},
            modules_to_save=["classifier"],
        ),
        "BertForSequenceClassification",
    ),
}


def labels_of(model) -> np.ndarray:
    return np.array([0, 2, 1]) if isinstance(model, llmcore.BertForSequenceClassification) else IDS


def gradients(model) -> dict[str, np.ndarray]:
    return {name: p.grad.numpy() for name, p in model.named_parameters() if p.requires_grad}


def stir(model) -> None:
    """Values other than zero into what is trained."""
    random = np.random.default_rng(1)
    for _, parameter in model.named_parameters():
        if parameter.requires_grad:
            values = parameter.numpy() + random.standard_normal(parameter.shape).astype(np.float32) * 0.1
            parameter.data.copy_(llmcore.tensor(values.astype(np.float32)).data)


@pytest.mark.parametrize("case", CASES)
def test_equal_to_peft(case, tmp_path):
    """Our adapter in peft: the same loss and gradients; peft's adapter here: the same loss."""
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    import transformers

    make, settings, name = CASES[case]
    model = make()
    model.save_pretrained(tmp_path / "base")
    model = type(model).from_pretrained(tmp_path / "base")
    get_peft_model(model, LoraConfig(**settings))
    stir(model)
    model.save_pretrained(tmp_path / "ours")
    labels = labels_of(model)
    loss = model(IDS, labels=labels).loss
    loss.backward()
    found = gradients(model)

    base = getattr(transformers, name).from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "ours", is_trainable=True)
    expected = theirs(torch.tensor(IDS), labels=torch.tensor(labels)).loss
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    wanted = {}
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            plain = name.removeprefix("base_model.model.").replace(".default", "").replace("modules_to_save.", "")
            plain = (
                plain.replace("base_layer.", "").replace("lora_A.weight", "lora_A").replace("lora_B.weight", "lora_B")
            )
            wanted[plain] = parameter.grad.numpy()
    assert set(wanted) == set(found)
    for name, gradient in wanted.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-3, atol=1e-5, err_msg=name)

    theirs.save_pretrained(tmp_path / "theirs")
    again = PeftModel.from_pretrained(make(), tmp_path / "theirs")
    with llmcore.no_grad():
        assert again(IDS, labels=labels).loss.item() == pytest.approx(loss.item(), rel=1e-6)
    assert again.get_nb_trainable_parameters()[0] == 0
    auto = {"gpt2": "CausalLM", "llama": "CausalLM", "bert": "SequenceClassification"}[case.split()[0]]
    found_again = getattr(llmcore, f"AutoModelFor{auto}").from_pretrained(tmp_path / "ours")  # finds its base itself
    with llmcore.no_grad():
        assert found_again(IDS, labels=labels).loss.item() == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize("make", [gpt2, llama, bert])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_and_back(make, dtype):
    model = make()
    if dtype == "bfloat16":
        model = type(model)(model.config, dtype=llmcore.bfloat16)
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    layers = sum("lora_A" in name for name, _ in model.named_parameters())
    assert layers >= 8 and all(("lora_" in name) == p.requires_grad for name, p in model.named_parameters())
    with llmcore.no_grad():
        plain = type(model)(model.config, dtype=model.dtype)(IDS).logits.numpy()
        rounding = 1e-6 if dtype == "float32" else 0.05
        np.testing.assert_allclose(model(IDS).logits.numpy(), plain, rtol=0, atol=rounding)  # B is 0: nothing changes
        stir(model)
        adapted = model(IDS).logits.numpy().copy()
        assert np.abs(adapted - plain).max() > 0.05
        model.merge_adapter()
        tolerance = 1e-5 if dtype == "float32" else 0.15
        np.testing.assert_allclose(model(IDS).logits.numpy(), adapted, rtol=tolerance, atol=tolerance)
        model.unmerge_adapter()
        for name, value in before.items():
            np.testing.assert_array_equal(model.state_dict()[name].numpy(), value, err_msg=name)
        model.merge_and_unload()
        assert set(model.state_dict()) == set(before) and model.peft_config is None
        np.testing.assert_allclose(model(IDS).logits.numpy(), adapted, rtol=tolerance, atol=tolerance)
    assert all(parameter.requires_grad for parameter in model.parameters())


def trainer(folder, model, **settings) -> Trainer:
    rows = [{"input_ids": row.tolist(), "labels": row.tolist()} for row in np.tile(IDS, (4, 1))]
    settings = dict(learning_rate=0.02, per_device_train_batch_size=4, plot_loss="no", seed=3, **settings)
    return Trainer(model, TrainingArguments(str(folder), **settings), train_dataset=rows)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_touches_the_adapter_alone(tmp_path, checkpointing):
    """Optimizer state, memory plan and checkpoints are the adapter's; a resumed run equals the unbroken one."""

    def make():
        return get_peft_model(gpt2(), LoraConfig(r=2, lora_dropout=0.3, target_modules=["c_attn", "c_fc"]))

    settings = dict(max_steps=8, save_steps=4, activation_checkpointing=checkpointing)
    model, frozen = make(), gpt2().state_dict()
    run = trainer(tmp_path / "whole", model, **settings)
    plan = run.prepare()
    trained, total = model.get_nb_trainable_parameters()
    assert sum(len(group.names) for group in run.optimizer.groups) == 8 and trained < 0.2 * total
    assert plan.optimizer < 0.5 * plan.weights
    losses = [step.loss for step in run]
    assert losses[-1] < losses[0]
    for name, value in frozen.items():
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), value.numpy(), err_msg=name)
    checkpoint = tmp_path / "whole" / "checkpoint-4"
    assert {"adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors"} <= set(
        path.name for path in checkpoint.iterdir()
    )
    assert not (checkpoint / "model.safetensors").exists()
    resumed = trainer(tmp_path / "whole", make(), **settings)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_equal_weights(resumed.model, model)
    with pytest.raises(CheckpointError, match="the checkpoint holds an adapter"):
        trainer(tmp_path / "whole", gpt2(), **settings).train(resume_from_checkpoint=str(checkpoint))


def test_checkpointing_gives_the_same_gradients():
    """Frozen embeddings: the input of the first block needs no gradient, its adapter does."""
    found = []
    for checkpointing in (False, True):
        model = get_peft_model(llama(), LoraConfig(r=2))
        stir(model)
        model.activation_checkpointing = checkpointing
        model.train()(IDS, labels=IDS).loss.backward()
        found.append(gradients(model))
    for name, gradient in found[0].items():
        np.testing.assert_array_equal(found[1][name], gradient, err_msg=name)
        assert np.abs(gradient).max() > 0


def test_a_dropped_adapter_input_is_scaled():
    model = get_peft_model(gpt2(), LoraConfig(r=2, lora_dropout=0.5))
    stir(model)
    with llmcore.no_grad():
        quiet = model.eval()(IDS).logits.numpy().copy()
        loud = np.mean([model.train()(IDS).logits.numpy() for _ in range(200)], axis=0)
    assert np.abs(model.train()(IDS).logits.numpy() - quiet).max() > 10 * np.abs(loud - quiet).mean() > 0


def test_mistakes(tmp_path):
    for settings, message in (
        (dict(r=0), "r must be at least 1"),
        (dict(lora_dropout=1.0), "lora_dropout"),
        (dict(bias="some"), "bias must be none, all or lora_only"),
        (dict(task_type="SEQ_2_SEQ_LM"), "task_type"),
        (dict(init_lora_weights="pissa"), "init_lora_weights"),
    ):
        with pytest.raises(ConfigError, match=message):
            LoraConfig(**settings)
    with pytest.raises(ConfigError, match="no linear layer is called 'q_proj'; there are c_attn, c_fc, c_proj"):
        get_peft_model(gpt2(), LoraConfig(target_modules=["c_attn", "q_proj"]))
    with pytest.raises(ConfigError, match="no part of this GPT2LMHeadModel is called 'score'"):
        get_peft_model(gpt2(), LoraConfig(modules_to_save=["score"]))
    with pytest.raises(ConfigError, match="lora_dropout must be 0 with an adapter on lm_head"):
        get_peft_model(llama(), LoraConfig(target_modules=["lm_head"], lora_dropout=0.1))
    model = get_peft_model(gpt2(), LoraConfig(r=2))
    with pytest.raises(ConfigError, match="has an adapter already"):
        get_peft_model(model, LoraConfig())
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="the adapter names no base model"):
        llmcore.AutoModelForCausalLM.from_pretrained(tmp_path)
    other = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**other, "r": 3}))
    with pytest.raises(CheckpointError, match=r"must have shape \(3, 12\), got \(2, 12\)"):
        PeftModel.from_pretrained(gpt2(), tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**other, "use_dora": True}))
    with pytest.raises(ConfigError, match="use_dora=True is not supported"):
        PeftModel.from_pretrained(gpt2(), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigError, match="no adapter there"):
            PeftModel.from_pretrained(gpt2(), tmp_path / "nowhere")


def test_prints_what_is_trained(capsys):
    model = bert()
    total = model.num_parameters() + 4 * 2 * (12 + 12)  # queries and values of two layers, rank 2
    get_peft_model(model, LoraConfig(r=2, task_type="SEQ_CLS")).print_trainable_parameters()
    trained = 192 + 12 * 3 + 3  # and the head
    share = 100 * trained / total
    expected = f"trainable params: {trained:,} || all params: {total:,} || trainable%: {share:.4f}\n"
    assert capsys.readouterr().out == expected
