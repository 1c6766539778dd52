"""`llmcore pretrain PRESET --train_file ...`: a model from random weights, trained on text."""

from __future__ import annotations

import dataclasses
import difflib
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import tyro

from llmcore.cli.options import CommonOptions, TrainingFlags, UsageError, parse
from llmcore.errors import ConfigError

DEFAULT_OUTPUT = "out"


def pretraining_flags() -> TrainingFlags:
    """The training settings that differ from transformers' defaults when a model starts from random weights."""
    return TrainingFlags(
        output_dir=DEFAULT_OUTPUT,
        learning_rate=6e-4,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=0.02,
        weight_decay=0.1,
        adam_beta2=0.95,
        enable_jit_checkpoint=True,
        disable_tqdm=False,
        save_total_limit=2,
    )


@dataclasses.dataclass(kw_only=True)
class PretrainOptions(CommonOptions):
    """Train a language model from random weights: `llmcore pretrain gpt2-mini --train_file book.txt`."""

    preset: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PRESET")]] = "gpt2-mini"
    """Size of the model, see `llmcore presets`; or a folder with a config.json."""

    train_file: list[str] = dataclasses.field(default_factory=list)
    """Text: files, folders, patterns, - for standard input, stdlib; or a folder that `llmcore prepare` wrote."""

    validation_file: list[str] = dataclasses.field(default_factory=list)
    """Text to validate on; none given sets a part of the documents aside."""

    validation_fraction: float = 0.05
    """Part of the documents that validate, if there is no validation_file; 0 for none."""

    tokenizer: str | None = None
    """bpe, byte, char, or a folder with a tokenizer; None lets the size of the text decide."""

    vocab_size: int | None = None
    """Entries of a bpe vocabulary; None lets the size of the text decide."""

    near_duplicates: bool = True
    """Keep documents that are nearly the same on one side of the split; reads the text once more."""

    text_field: str = "text"
    """Field of JSON lines that holds the text."""

    block_size: int | None = None
    """Context of the model in tokens; None takes the preset's."""

    n_layer: int | None = None
    """Blocks; None takes the preset's."""

    n_head: int | None = None
    """Attention heads; None takes the preset's."""

    n_embd: int | None = None
    """Width; None takes the preset's."""

    dropout: float | None = None
    """Dropout probability; None takes the preset's."""

    sample_prompt: str | None = None
    """Text that the trained model continues at the end; None takes the start of the validation text."""

    dry_run: bool = False
    """Show the data report and the memory plan, and train nothing."""

    training: TrainingFlags = dataclasses.field(default_factory=pretraining_flags)


def main(argv: list[str]) -> int:
    """Runs the verb."""
    options = parse(PretrainOptions, argv, "pretrain")
    if not options.train_file:
        raise UsageError("pretrain needs text: llmcore pretrain gpt2-mini --train_file book.txt")
    args = options.training.arguments()  # refuses bad settings before the text is read
    from llmcore.machine import find_device  # here: it loads the core, which --help does not need

    find_device("cpu" if args.use_cpu else args.device)
    config = preset_config(options.preset)
    if options.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            return _dry_run(options, args, config, Path(folder))
    return _train(options, args, config)


def _train(options: PretrainOptions, args: Any, config: Any) -> int:
    from llmcore.cli.output import print_result, remark
    from llmcore.cli.training_data import load_training_data
    from llmcore.models import AutoModelForCausalLM
    from llmcore.training.trainer import Trainer

    folder = Path(args.output_dir)
    data = load_training_data(_request(options, args), folder / "data", _block_size(options, config))
    model = AutoModelForCausalLM.from_config(_sized(config, options, data), seed=args.seed)
    args = with_evaluation(args, options.given, data.validation is not None)
    trainer = Trainer(
        model,
        args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        processing_class=data.tokenizer,
    )
    output = trainer.train()
    if trainer.stop_reason in ("SIGINT", "SIGTERM"):
        remark(f"go on with: {_continuation()}")
        return 128 + signal.Signals[trainer.stop_reason]
    if trainer.stop_reason is not None:
        remark(f"stopped early: {trainer.stop_reason}")
    trainer.save_model()
    prompt, text = sample(model, data, options.sample_prompt, args.seed)
    metrics = {**output.metrics, **(trainer.last_metrics or {})}
    result = {
        "output_dir": str(folder),
        "global_step": output.global_step,
        "metrics": metrics,
        "sample": {"prompt": prompt, "text": text},
    }
    print_result(result, _summary(folder, metrics, prompt, text), options.json)
    return 0


def _summary(folder: Path, metrics: dict[str, Any], prompt: str, text: str) -> str:
    lines = [f"sample, after {prompt!r}:", *(f"  | {line}" for line in (prompt + text).splitlines()), ""]
    if "eval_bits_per_byte" in metrics:
        lines.append(
            f"validation: loss {metrics['eval_loss']:.3f}, perplexity {metrics['eval_perplexity']:.2f}, "
            f"{metrics['eval_bits_per_byte']:.3f} bits per byte"
        )
    name = shlex.quote(str(folder))
    return "\n".join([*lines, f"saved {folder}", f'next: llmcore generate {name} --prompt "..." --temperature 0.8'])


def _dry_run(options: PretrainOptions, args: Any, config: Any, folder: Path) -> int:
    from llmcore.cli.output import print_result
    from llmcore.cli.training_data import load_training_data
    from llmcore.machine import find_device, is_gpu
    from llmcore.training.memory_plan import available_memory, plan_memory

    data = load_training_data(_request(options, args), folder, _block_size(options, config))
    config = _sized(config, options, data)
    device = find_device("cpu" if args.use_cpu else args.device)
    limit = args.memory_limit_bytes()
    plan = plan_memory(
        config,
        config.dimensions().parameters,
        batch_size=args.per_device_train_batch_size,
        sequence_length=data.block_size,
        optim=args.optim,
        momentum="momentum" in (args.optim_args or ""),
        stochastic_rounding="stochastic_rounding=true" in (args.optim_args or "").lower(),
        bf16=is_gpu(device) if args.bf16 is None else args.bf16,
        activation_checkpointing=bool(args.activation_checkpointing),
        device=device,
        available=available_memory(device) if limit is None else limit,
    )
    model = f"model: {options.preset}, {config.dimensions().parameters / 1e6:,.2f} M parameters"
    fits = "it fits" if plan.fits else "it does NOT fit"
    result = {
        "parameters": config.dimensions().parameters,
        "memory": {**dataclasses.asdict(plan), "total": plan.total, "fits": plan.fits},
        "data": dataclasses.asdict(data.report),
    }
    print_result(result, f"{data.report.render()}\n{model}\n{plan.render()}: {fits}", options.json)
    return 0


# ------------------------------------------------------------------------------------------------------------- pieces


def preset_config(name: str) -> Any:
    """The config of a preset ("gpt2-mini", or "mini" for short) or of a model folder. Raises ConfigError."""
    from llmcore.models import PRESETS, AutoConfig

    for known in (name, f"gpt2-{name}"):  # "mini" is gpt2-mini
        if known in PRESETS:
            return PRESETS[known]
    if (Path(name) / "config.json").is_file():
        return AutoConfig.from_pretrained(name)
    close = difflib.get_close_matches(name, PRESETS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(PRESETS)}."
    raise ConfigError(f"there is no preset {name!r} (nor a folder of that name with a config.json); {hint}")


def with_evaluation(args: Any, given: tuple[str, ...], has_validation: bool) -> Any:
    """Ten evaluations over the run, where there is something to validate on and the user has not said otherwise."""
    if has_validation and not {"eval_strategy", "eval_steps"} & set(given):
        return dataclasses.replace(args, eval_strategy="steps", eval_steps=0.1)
    if has_validation and "eval_steps" in given and "eval_strategy" not in given:
        return dataclasses.replace(args, eval_strategy="steps")
    if not has_validation and args.eval_strategy != "no":
        raise ConfigError(
            f"eval_strategy={args.eval_strategy!r} needs something to validate on: give --validation_file, or a "
            "--validation_fraction above 0."
        )
    return args


def sample(model: Any, data: Any, prompt: str | None, seed: int) -> tuple[str, str]:
    """A prompt and what the model writes after it; without a prompt, the first words that it was validated on."""
    source = data.validation or data.train
    if prompt is None:
        prompt = data.tokenizer.decode(source.window(0)[: min(12, data.block_size // 2)], skip_special_tokens=True)
    room = {"max_new_tokens": min(100, data.block_size - 16)} if data.block_size > 16 else {}
    text = model.generate(
        prompt, tokenizer=data.tokenizer, do_sample=True, temperature=0.8, seed=seed, slide_context=True, **room
    )
    return prompt, text


def _request(options: PretrainOptions, args: Any) -> Any:
    from llmcore.cli.training_data import DataRequest

    names = [field.name for field in dataclasses.fields(DataRequest) if field.name != "reuse"]
    reuse = args.resume_from_checkpoint not in (None, False)
    return DataRequest(**{name: getattr(options, name) for name in names}, reuse=reuse)


def _block_size(options: PretrainOptions, config: Any) -> int:
    if options.block_size is not None and options.block_size < 2:
        raise ConfigError(f"block_size must be at least 2, got {options.block_size}.")
    return options.block_size or config.dimensions().positions


def _sized(config: Any, options: PretrainOptions, data: Any) -> Any:
    """The preset with the vocabulary and context of the data, and what the user changed."""
    sized = config.resized(
        options.dropout,
        layers=options.n_layer,
        heads=options.n_head,
        width=options.n_embd,
        positions=data.block_size,
    )
    eos = data.tokenizer.eos_token_id
    return sized.replace(vocab_size=data.tokenizer.vocab_size, bos_token_id=eos, eos_token_id=eos)


def _continuation() -> str:
    """The command that goes on where this one stopped."""
    words = sys.argv[1:]
    if not any(word.replace("-", "_").startswith("__resume_from_checkpoint") for word in words):
        words = [*words, "--resume_from_checkpoint", "true"]
    return shlex.join(["llmcore", *words])
