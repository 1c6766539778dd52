"""`llmcore evaluate DIR --data ...`: how well a model predicts a text."""

from __future__ import annotations

import dataclasses
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from llmcore.cli.options import CommonOptions, UsageError, parse

if TYPE_CHECKING:
    from llmcore.data import TokenShard
    from llmcore.data.tokenizer import Tokenizer


@dataclasses.dataclass(kw_only=True)
class EvaluateOptions(CommonOptions):
    """Perplexity and bits per byte of a model on text, each named by the windows that the text was cut into."""

    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]] = ""
    """Folder of the model, as a run leaves it."""

    data: list[str] = dataclasses.field(default_factory=list)
    """Text: files, folders, patterns, - for standard input, stdlib; or one .bin file of tokens."""

    window: int | None = None
    """Tokens that the model sees at once; None means its context."""

    stride: int | None = None
    """None: windows follow each other. Otherwise they overlap and move on by so many tokens: a fairer number for long
    texts, at window / stride times the cost."""

    batch_size: int = 8
    """Windows at once."""

    text_field: str = "text"
    """Field of JSON lines that holds the text."""

    num_threads: int = 0
    """CPU threads; 0 means all that this process may use."""


def main(argv: list[str]) -> None:
    """Runs the verb."""
    options = parse(EvaluateOptions, argv, "evaluate")
    if not options.model or not options.data:
        raise UsageError("evaluate needs a model and text: llmcore evaluate out --data book.txt")

    from llmcore import _core
    from llmcore.cli.output import pairs, print_result
    from llmcore.data.tokenizer import Tokenizer
    from llmcore.evaluation import perplexity
    from llmcore.models import AutoModelForCausalLM

    if options.num_threads:
        _core.set_num_threads(options.num_threads)
    model = AutoModelForCausalLM.from_pretrained(options.model)
    tokenizer = Tokenizer.from_pretrained(options.model)
    with ExitStack() as stack:
        shard = _tokens(options, tokenizer, stack)
        metrics: dict[str, Any] = perplexity(
            model,
            shard,
            window=options.window,
            stride=options.stride,
            batch_size=options.batch_size,
            tokenizer=tokenizer,
            progress=_Progress(),
        )
    rows = [(name, f"{value:,.4f}" if isinstance(value, float) else f"{value:,}") for name, value in metrics.items()]
    print_result({"model": options.model, "data": options.data, **metrics}, pairs(rows), options.json)


def _tokens(options: EvaluateOptions, tokenizer: Tokenizer, stack: ExitStack) -> TokenShard:
    """The text as one token stream on disk, documents separated by the end of text as in training."""
    from llmcore.cli.text import standard_input_as_file
    from llmcore.data import open_shard
    from llmcore.data.prepare import prepare

    if len(options.data) == 1 and options.data[0].endswith(".bin"):
        return stack.enter_context(open_shard(options.data[0], tokenizer=tokenizer))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    files = stack.enter_context(standard_input_as_file(options.data, folder))
    prepare(files, folder / "tokens", tokenizer, validation_fraction=0, text_field=options.text_field)
    return stack.enter_context(open_shard(folder / "tokens" / "train.bin", tokenizer=tokenizer))


class _Progress:
    """A bar on a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=total, unit=" tokens", unit_scale=True, leave=False, disable=None)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._bar.close()
