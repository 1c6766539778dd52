"""`llmcore quickstart`: a code model in a few minutes, from text that every Python brings along.

Reads the standard library of the running Python, sets whole files aside, trains a tokenizer and a small GPT-2, draws
the loss, and lets the model complete functions. Everything here is what `llmcore pretrain` does, with settings that
were tuned for two CPU cores.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmcore.data.tokenizer import Tokenizer
    from llmcore.models import GPT2Config
    from llmcore.training.trainer import Trainer

HELD_OUT = 0.04  # part of the files

# A model this small continues patterns rather than intentions, so the prompts have some. They end where a line
# ends, so that what the model writes can be told apart.
PROMPTS = (
    "def check(value):\n    if not isinstance(value, str):",
    "class Stack:\n"
    '    """A stack of items."""\n\n'
    "    def __init__(self, items):\n"
    "        self.items = items\n\n"
    "    def __len__(self):\n"
    "        return len(self.items)\n\n"
    "    def push(self, item):",
)


@dataclasses.dataclass
class QuickstartSettings:
    """The run. `max_steps` is made smaller on a machine on which it would take longer than `minutes`."""

    output_dir: str = "quickstart"
    minutes: float = 5.0
    seed: int = 42
    num_threads: int = 0
    sources: list[str] | None = None  # other Python files to learn from; None: the standard library
    vocab_size: int = 4096
    block_size: int = 256
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 256
    batch_size: int = 4
    max_steps: int = 1700
    learning_rate: float = 1.5e-3
    warmup_steps: float = 0.05
    weight_decay: float = 0.1
    adam_beta2: float = 0.99  # with batches this small, a longer memory of the squares


@dataclasses.dataclass(frozen=True)
class QuickstartResult:
    """What came out."""

    output_dir: str
    files: int
    held_out_files: int
    parameters: int
    steps: int
    seconds: float
    bits_per_byte: float
    gzip_bits_per_byte: float
    picture: str | None
    completions: list[dict[str, str]]  # "prompt" and the "text" that follows it


def run_quickstart(settings: QuickstartSettings, say: Callable[[str], None]) -> QuickstartResult:
    """Runs all of it; `say` gets the lines for the person who watches. Raises LlmcoreError.

    Takes about `settings.minutes`, and a few seconds for the tokenizer and the evaluation. The same settings give the
    same model on every machine that is fast enough for `max_steps`.
    """
    from llmcore import _core
    from llmcore.data import BlockDataset, Tokenizer, open_shard
    from llmcore.data.prepare import prepare

    began = time.monotonic()
    folder = Path(settings.output_dir)
    if settings.num_threads:
        _core.set_num_threads(settings.num_threads)

    train_files, held_out = split_files(python_files(settings.sources))
    say(f"1/3  Text: {len(train_files)} Python files to learn from, {len(held_out)} others to be tested on.")
    report = prepare(train_files, folder / "data", "bpe", vocab_size=settings.vocab_size, validation_sources=held_out)
    for name, split in report.splits.items():
        say(f"     {name}: {(split.bytes or 0) / 1e6:.2f} MB, {split.tokens:,} tokens")

    tokenizer = Tokenizer.from_pretrained(folder / "data")
    train = BlockDataset(open_shard(folder / "data" / "train.bin"), settings.block_size)
    validation = BlockDataset(open_shard(folder / "data" / "validation.bin"), settings.block_size, keep_tail=True)
    trainer = make_trainer(settings, tokenizer, train, validation)
    say(
        f"2/3  Training: a GPT-2 of {settings.n_layer} layers, {trainer.model.num_parameters() / 1e6:.1f} M random "
        f"numbers, {trainer.args.max_steps} updates of {settings.batch_size * settings.block_size:,} tokens."
    )
    trainer.train()
    trainer.save_model()

    bits, gzip = trainer.last_metrics["eval_bits_per_byte"], gzip_bits_per_byte(held_out)
    say(
        f"3/3  Result: {bits:.2f} bits per byte on files that it has never seen (gzip needs {gzip:.2f}, random "
        "guessing 8)."
    )
    picture = folder / "loss.png"
    return QuickstartResult(
        output_dir=settings.output_dir,
        files=len(train_files),
        held_out_files=len(held_out),
        parameters=trainer.model.num_parameters(),
        steps=trainer.state.global_step,
        seconds=time.monotonic() - began,
        bits_per_byte=bits,
        gzip_bits_per_byte=gzip,
        picture=str(picture) if picture.is_file() else None,
        completions=[complete(trainer.model, tokenizer, prompt, settings.seed) for prompt in PROMPTS],
    )


def make_trainer(settings: QuickstartSettings, tokenizer: Tokenizer, train: Any, validation: Any) -> Trainer:
    """A new model with its trainer; `args.max_steps` is what this machine can do in time."""
    from llmcore.models import GPT2LMHeadModel
    from llmcore.training.arguments import TrainingArguments
    from llmcore.training.trainer import Trainer

    config = model_config(settings, tokenizer)
    args = TrainingArguments(
        output_dir=settings.output_dir,
        run_name="quickstart",
        max_steps=affordable_steps(settings, config, train),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=16,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.05},
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        adam_beta2=settings.adam_beta2,
        eval_strategy="steps",
        eval_steps=0.2,
        save_strategy="no",
        logging_steps=0.02,
        seed=settings.seed,
        disable_tqdm=False,
    )
    model = GPT2LMHeadModel(config, seed=settings.seed)
    return Trainer(model, args, train_dataset=train, eval_dataset=validation, processing_class=tokenizer)


def python_files(sources: list[str] | None) -> list[tuple[str, str]]:
    """(name, path) of the files to learn from and to be tested on, in a fixed order."""
    if sources is not None:
        from llmcore.data.sources import expand_sources

        return [(path, path) for path in expand_sources(sources)]
    from llmcore.data.corpus import standard_library_files

    return list(standard_library_files())


def split_files(files: list[tuple[str, str]], fraction: float = HELD_OUT) -> tuple[list[str], list[str]]:
    """Paths to train on and paths set aside, by a hash of each name: whole files, so nothing of them is ever seen.

    At least one file is set aside, and one is left.
    """
    ranked = sorted(files, key=lambda file: hashlib.sha256(file[0].encode()).digest())
    count = min(max(1, round(len(ranked) * fraction)), len(ranked) - 1)
    held_out = {path for _, path in ranked[:count]}
    return [path for _, path in files if path not in held_out], [path for _, path in files if path in held_out]


def gzip_bits_per_byte(paths: list[str]) -> float:
    """What a general compressor makes of the same files, as a yardstick: it, too, has to predict what comes next."""
    data = b"".join(Path(path).read_bytes() for path in paths)
    return 8 * len(zlib.compress(data, 9)) / max(1, len(data))


def model_config(settings: QuickstartSettings, tokenizer: Tokenizer) -> GPT2Config:
    """The model: a GPT-2 without dropout, since no text is seen often enough to be learned by heart."""
    from llmcore.models import GPT2Config

    return GPT2Config(
        vocab_size=tokenizer.vocab_size,
        n_positions=settings.block_size,
        n_embd=settings.n_embd,
        n_layer=settings.n_layer,
        n_head=settings.n_head,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def affordable_steps(settings: QuickstartSettings, config: GPT2Config, train: Any) -> int:
    """`max_steps`, or fewer where the machine is slower: three micro-batches are timed beforehand.

    The schedule of the learning rate has to end where the training does, so the number is fixed before it starts.
    """
    import numpy as np

    from llmcore.models import GPT2LMHeadModel

    model = GPT2LMHeadModel(config, seed=0)
    seconds = float("inf")
    for _ in range(3):  # the first one also fills the allocator
        batch = train.batch(np.arange(min(settings.batch_size, len(train))))
        start = time.perf_counter()
        model(**batch).loss.backward()
        seconds = min(seconds, time.perf_counter() - start)
    reserve = 0.8  # of the time: evaluation and the optimizer take the rest
    return max(10, min(settings.max_steps, int(60 * settings.minutes * reserve / seconds)))


def complete(model: Any, tokenizer: Tokenizer, prompt: str, seed: int) -> dict[str, str]:
    """`prompt` and the `text` that the model writes after it, up to where the next definition begins."""
    text = model.generate(
        prompt,
        tokenizer=tokenizer,
        max_new_tokens=48,
        do_sample=True,
        temperature=0.5,
        top_p=0.95,
        seed=seed,
        stop_strings=["\ndef ", "\nclass ", "\n    def ", "\n\n\n"],
    )
    return {"prompt": prompt, "text": text.rstrip()}
