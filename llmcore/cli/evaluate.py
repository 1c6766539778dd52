"""`llmcore evaluate DIR --data ...`: how well a model predicts a text, finds labels, or writes what it should."""

from __future__ import annotations

import dataclasses
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from llmcore.cli.options import CommonOptions, UsageError, parse, use_threads

if TYPE_CHECKING:
    from llmcore.data import TokenShard
    from llmcore.data.tokenizer import Tokenizer

_SPLITS = ("train", "validation", "test")
_TEXT_METRICS = ("bleu", "chrf", "ter", "rouge")


@dataclasses.dataclass(kw_only=True)
class EvaluateOptions(CommonOptions):
    """Evaluate a model. A decoder: perplexity and bits per byte on text, each named by the windows that the text was
    cut into; with --metrics bleu,chrf,rouge what it writes after prompts; with --tasks those of lm-evaluation-harness.
    A classifier or a model of numbers: accuracy, F1, errors and so on, on labelled rows."""

    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]] = ""
    """Folder of the model, as a run leaves it."""

    data: list[str] = dataclasses.field(default_factory=list)
    """Text: files, folders, patterns, - for standard input, stdlib; or one .bin file of tokens. Rows: .jsonl, .json,
    .csv, .tsv or .parquet files."""

    train_file: list[str] = dataclasses.field(default_factory=list)
    """Like data; the result is under the name train."""

    validation_file: list[str] = dataclasses.field(default_factory=list)
    """Like data; the result is under the name validation."""

    test_file: list[str] = dataclasses.field(default_factory=list)
    """Like data; the result is under the name test."""

    metrics: list[str] = dataclasses.field(default_factory=list)
    """Which ones to show; none given means all. bleu, chrf, ter, rouge compare what a decoder writes after the prompt
    of each row with its reference (they need the extra eval)."""

    window: int | None = None
    """Tokens that the model sees at once; None means its context."""

    stride: int | None = None
    """None: windows follow each other. Otherwise they overlap and move on by so many tokens: a fairer number for long
    texts, at window / stride times the cost."""

    batch_size: int = 8
    """Windows or rows at once; results do not depend on it."""

    text_field: str = "text"
    """Field of rows that holds the text."""

    max_new_tokens: int = 128
    """Tokens to write at most after each prompt."""

    stop: list[str] = dataclasses.field(default_factory=list)
    """A written text ends before the first of these strings."""

    language: str | None = None
    """Language of the references: zh is compared character by character; None looks at them."""

    device: str = "auto"
    """auto (a GPU where there is one that this build can use), cpu, cuda or cuda:0."""

    tasks: list[str] = dataclasses.field(default_factory=list)
    """Tasks of lm-evaluation-harness (needs the extra lm-eval)."""

    include_path: list[str] = dataclasses.field(default_factory=list)
    """Folders with task files of your own."""

    limit: int | None = None
    """Only the first so many examples of each task, to try it."""

    num_threads: int = 0
    """CPU threads; 0 means all that this process may use."""


def main(argv: list[str]) -> None:
    """Runs the verb."""
    options = parse(EvaluateOptions, argv, "evaluate")
    sources = {name: getattr(options, f"{name}_file") for name in _SPLITS if getattr(options, f"{name}_file")}
    if not options.model or not (options.data or sources or options.tasks):
        raise UsageError("evaluate needs a model and text: llmcore evaluate out --data book.txt")
    if options.tasks and (options.data or sources):
        raise UsageError("--tasks bring their own data; evaluate the text or the rows in a second call.")
    metrics = [name for given in options.metrics for name in given.replace(",", " ").split()]
    written = [name for name in metrics if name in _TEXT_METRICS]
    if written and written != metrics:
        raise UsageError(f"--metrics: {', '.join(written)} compare texts; ask for the others in a second call.")

    from llmcore.cli.output import pairs, print_result

    use_threads(options.num_threads)
    if options.tasks:
        result = _harness(options)
        rows = [(f"{task} {name}", value) for task, values in result.items() for name, value in values.items()]
        print_result({"model": options.model, "tasks": result}, pairs(_shown(rows)), options.json)
        return
    evaluate = _evaluation(options, written)
    results = {name: evaluate(files) for name, files in {"": options.data, **sources}.items() if files}
    results = {name: _chosen(values, metrics if not written else []) for name, values in results.items()}
    blocks = []
    for name, values in results.items():
        text = pairs(_shown(values.items()))
        blocks.append(f"{name}\n{text}" if name else text)
    named = {name: values for name, values in results.items() if name}
    found = {"model": options.model, "data": options.data, **results.get("", {}), **named}
    print_result(found, "\n\n".join(blocks), options.json)


def _shown(items: Any) -> list[tuple[str, str]]:
    """Numbers as people read them; lists and matrices are for --json."""
    shown = []
    for name, value in items:
        if isinstance(value, (int, str)):
            shown.append((name, f"{value:,}" if isinstance(value, int) else value))
        elif isinstance(value, float):
            shown.append((name, f"{value:,.4f}"))
    return shown


def _chosen(values: dict[str, Any], metrics: list[str]) -> dict[str, Any]:
    """The measures whose names are asked for, or begin so: f1 means f1_macro, too. Counts stay."""
    if not metrics:
        return values
    counts = ("rows", "tokens", "bytes", "windows")
    chosen: dict[str, Any] = {}
    for wanted in metrics:
        found = {name: value for name, value in values.items() if name == wanted or name.startswith(f"{wanted}_")}
        if not found:
            known = ", ".join(name for name in values if name not in counts)
            raise UsageError(f"--metrics: this model and data have no {wanted!r}; there are {known}.")
        chosen |= found
    return {**chosen, **{name: values[name] for name in counts if name in values}}


def _evaluation(options: EvaluateOptions, written: list[str]) -> Any:
    """The function from files to measures that suits the model and what is asked for."""
    from llmcore.data.row_files import read_rows
    from llmcore.data.tokenizer import Tokenizer
    from llmcore.evaluation import TextMetrics, evaluate_generation
    from llmcore.machine import find_device
    from llmcore.models.auto import load_model
    from llmcore.training.batches import task_of
    from llmcore.training.row_evaluation import CLASSIFIERS, evaluate_rows

    compare = TextMetrics(written, options.language) if written else None  # what is missing is said before work begins
    model, tokenizer = (
        load_model(options.model, device=find_device(options.device)),
        Tokenizer.from_pretrained(options.model),
    )
    task = task_of(model)
    if task in CLASSIFIERS and compare is None:
        if {"window", "stride"} & set(options.given):
            raise UsageError(f"--window and --stride cut text for a decoder; {options.model} labels rows.")
        return lambda files: evaluate_rows(
            *(model, read_rows(files), tokenizer),
            batch_size=options.batch_size,
            text_field=options.text_field,
            progress=_Progress(" rows"),
        )
    if task != "causal-lm":
        wanted = "writes no text" if compare is not None else "has no perplexity and no labels"
        raise UsageError(f"{options.model} holds a {type(model).__name__}, which {wanted}.")
    if compare is not None:
        settings = {"stop_strings": options.stop} if options.stop else {}
        return lambda files: evaluate_generation(
            *(model, read_rows(files), compare),
            tokenizer=tokenizer,
            batch_size=options.batch_size,
            max_new_tokens=options.max_new_tokens,
            do_sample=False,
            slide_context=True,
            progress=_Progress(" rows"),
            **settings,
        )
    return lambda files: _perplexity(options, files, model, tokenizer)


def _harness(options: EvaluateOptions) -> dict[str, Any]:
    from llmcore.evaluation.lm_eval import HarnessLM, evaluate_tasks

    model = HarnessLM(options.model, batch_size=options.batch_size, device=options.device)
    names = [name for given in options.tasks for name in given.replace(",", " ").split()]
    return evaluate_tasks(model, names, options.include_path, limit=options.limit)


def _perplexity(options: EvaluateOptions, files: list[str], model: Any, tokenizer: Tokenizer) -> dict[str, Any]:
    from llmcore.evaluation import perplexity

    with ExitStack() as stack:
        return perplexity(
            model,
            _tokens(options, files, tokenizer, stack),
            window=options.window,
            stride=options.stride,
            batch_size=options.batch_size,
            tokenizer=tokenizer,
            progress=_Progress(" tokens"),
        )


def _tokens(options: EvaluateOptions, data: list[str], tokenizer: Tokenizer, stack: ExitStack) -> TokenShard:
    """The text as one token stream on disk, documents separated by the end of text as in training."""
    from llmcore.cli.text import standard_input_as_file
    from llmcore.data import open_shard
    from llmcore.data.prepare import prepare

    if len(data) == 1 and data[0].endswith(".bin"):
        return stack.enter_context(open_shard(data[0], tokenizer=tokenizer))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    files = stack.enter_context(standard_input_as_file(data, folder))
    prepare(files, folder / "tokens", tokenizer, validation_fraction=0, text_field=options.text_field)
    return stack.enter_context(open_shard(folder / "tokens" / "train.bin", tokenizer=tokenizer))


class _Progress:
    """A bar on a terminal; nothing elsewhere."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=total, unit=self._unit, unit_scale=True, leave=False, disable=None)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._bar.close()
