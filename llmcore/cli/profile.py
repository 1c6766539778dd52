"""`llmcore profile PRESET`: where the time of a training step goes, and how far each op is from the machine's limit."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from llmcore.cli.options import CommonOptions, UsageError, parse, use_threads

if TYPE_CHECKING:
    from llmcore.profiling import StepProfile


@dataclasses.dataclass(kw_only=True)
class ProfileOptions(CommonOptions):
    """The ops of a training step: calls, time, operations, bytes, and per cent of the limit that binds: the matrix
    products' or the memory's, both measured here. The weights and the text are random."""

    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]] = "gpt2-mini"
    """Size of the model, see `llmcore presets`; or a folder with a config.json."""

    batch_size: int = 4
    """Sequences in a step."""

    block_size: int | None = None
    """Tokens of a sequence; None takes the model's context."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and activations; bfloat16 keeps float32 master weights beside them."""

    steps: int = 5
    """Steps that are measured, after two that are not."""

    shapes: bool = False
    """One line for each shape of an op, not one for the op."""

    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""

    device: str = "auto"
    """auto (a GPU where there is one that this build can use), cpu, cuda or cuda:0."""

    num_threads: int = 0
    """CPU threads; 0 means all that this process may use."""


def main(argv: list[str]) -> None:
    """Runs the verb."""
    options = parse(ProfileOptions, argv, "profile")
    for name in ("batch_size", "steps"):
        if getattr(options, name) < 1:
            raise UsageError(f"profile: {name} must be at least 1, got {getattr(options, name)}")
    from llmcore import _core
    from llmcore.cli.output import print_result
    from llmcore.machine import find_device
    from llmcore.profiling import profile_step

    use_threads(options.num_threads)
    device = find_device(options.device)
    step, tokens = _training_step(options, device)
    profile = profile_step(step, options.steps, options.shapes, device)
    result = {
        "model": options.model,
        "dtype": options.dtype,
        "batch_size": options.batch_size,
        "tokens": tokens,
        "device": device,
        "isa": _core.cpu_isa(),
        "threads": _core.num_threads(),
        "peak_memory": _core.memory_stats(device)["peak_allocated"],
        **dataclasses.asdict(profile),
    }
    print_result(result, _text(options, profile, tokens, device), options.json)


def _training_step(options: ProfileOptions, device: str) -> tuple[Any, int]:
    """A step of the model on a random batch, and its number of tokens."""
    import numpy as np

    from llmcore import _core
    from llmcore.cli.pretrain import preset_config
    from llmcore.labels import IGNORE_INDEX
    from llmcore.models import AutoModelForCausalLM, AutoModelForMaskedLM
    from llmcore.optim import AdamW
    from llmcore.profiling.step import language_model_step

    config = preset_config(options.model)
    shape = (
        options.batch_size,
        options.block_size or config.dimensions().positions,
    )
    random = np.random.default_rng(0)
    ids = labels = random.integers(0, config.vocab_size, shape)
    masked = config.model_type == "bert"
    if masked:
        labels = np.where(random.random(shape) < 0.15, ids, IGNORE_INDEX)  # the share that BERT was trained on
        labels[0, 0] = ids[0, 0]
    model = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_config(config).to(device)
    if options.activation_checkpointing:
        model.gradient_checkpointing_enable()
    optimizer = AdamW(model, dtype=getattr(_core.DType, options.dtype))
    model.train()
    items = None if masked else options.batch_size * (shape[1] - 1)
    return language_model_step(model, optimizer, ids, labels, items), ids.size


def _text(options: ProfileOptions, profile: StepProfile, tokens: int, device: str) -> str:
    from llmcore import _core
    from llmcore.cli.output import table
    from llmcore.machine import is_gpu, matmul_peak_flops, memory_bandwidth

    rows = []
    for row in profile.rows:
        unit, size = ("GFLOP/s", 1e9) if row.limit == "matmul" else ("GB/s", 1e9)
        cells = [row.op, *([row.shape] if options.shapes else []), f"{row.calls:.0f}" if row.calls else ""]
        cells += [f"{1e3 * row.seconds:.2f}", f"{row.flops / 1e9:.2f}" if row.flops else ""]
        cells += [f"{row.nbytes / 1e6:.1f}" if row.nbytes else ""]
        cells += [f"{row.rate / size:.1f} {unit}", f"{row.percent:.0f} % {row.limit}"] if row.limit else ["", ""]
        rows.append([*cells, f"{100 * row.share:.1f} %"])
    head = ["op", *(["shape"] if options.shapes else []), "calls", "ms", "GFLOP", "MB", "rate", "of limit", "of step"]
    dtype = getattr(_core.DType, options.dtype)
    flops, bandwidth = matmul_peak_flops(dtype, device), memory_bandwidth(1e9, device)
    limits = f"{flops / 1e9:,.0f} GFLOP/s of {options.dtype}, {bandwidth / 1e9:.0f} GB/s"
    where = device if is_gpu(device) else f"{_core.cpu_isa()} with {_core.num_threads()} threads"
    return "\n".join(
        [
            f"{options.model}, {options.batch_size} x {tokens // options.batch_size} tokens, {options.dtype}, "
            f"{where}; limits {limits} from memory (more from caches)",
            f"a step takes {1e3 * profile.plain_seconds:.1f} ms, {tokens / profile.plain_seconds:,.0f} tokens/s; "
            f"recorded {1e3 * profile.seconds:.1f} ms",
            "",
            table(rows, head),
        ]
    )
