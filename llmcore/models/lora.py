"""LoRA for whole models, with the names and the files of peft.

`get_peft_model(model, LoraConfig(...))` puts adapters beside the linear layers of `model` itself and freezes the rest.
The model then saves its adapter only; `merge_and_unload()` makes it an ordinary model again.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmcore import _core, tensor_file
from llmcore.errors import CheckpointError, ConfigError
from llmcore.nn import Linear, Module, Parameter
from llmcore.nn.lora import LoraLinear
from llmcore.text_file import write_text

if TYPE_CHECKING:
    from llmcore.models.pretrained import PreTrainedModel

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."

# model_type -> the layers that get adapters unless target_modules says otherwise, as in peft
_DEFAULT_TARGETS = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"], "bert": ["query", "value"]}
_HEADS = ("lm_head", "classifier", "score")  # what "all-linear" leaves out
_TASKS = (None, "CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS", "FEATURE_EXTRACTION")
# fields of peft's files that say nothing about the numbers
_WITHOUT_EFFECT = frozenset(
    "auto_mapping ensure_weight_tying megatron_config megatron_core parent_library peft_version qalora_group_size "
    "runtime_config inference_mode revision".split()
)


@dataclasses.dataclass
class LoraConfig:
    """peft's names and defaults. Raises ConfigError for a value that cannot be.

    `target_modules`: ends of the names of the layers, a regular expression for the whole name, or "all-linear"; None
    takes the usual ones of the architecture. `modules_to_save`: layers that are trained as a whole and saved with the
    adapter; a new head (`task_type` SEQ_CLS or TOKEN_CLS) is among them by itself. `bias`: which biases are trained.
    `fan_in_fan_out` is found out from the layer (GPT-2's Conv1D has it). `rank_pattern` and `alpha_pattern`: other
    values of r and lora_alpha for names that match.
    """

    r: int = 8
    target_modules: list[str] | str | None = None
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    fan_in_fan_out: bool = False
    bias: Literal["none", "all", "lora_only"] = "none"
    use_rslora: bool = False
    modules_to_save: list[str] | None = None
    init_lora_weights: bool | Literal["gaussian"] = True
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    rank_pattern: dict[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: dict[str, float] = dataclasses.field(default_factory=dict)
    task_type: str | None = None
    base_model_name_or_path: str | None = None
    peft_type: str = "LORA"

    def __post_init__(self) -> None:
        self.task_type = getattr(self.task_type, "value", self.task_type)
        if self.r < 1:
            raise ConfigError(f"LoraConfig: r must be at least 1, got {self.r}")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"LoraConfig: lora_dropout must be in [0, 1), got {self.lora_dropout}")
        if self.bias not in ("none", "all", "lora_only"):
            raise ConfigError(f"LoraConfig: bias must be none, all or lora_only, got {self.bias!r}")
        if self.init_lora_weights not in (True, False, "gaussian"):
            raise ConfigError(
                f"LoraConfig: init_lora_weights must be True, False or 'gaussian', got {self.init_lora_weights!r}"
            )
        if self.task_type not in _TASKS:
            raise ConfigError(f"LoraConfig: task_type must be one of {_TASKS}, got {self.task_type!r}")
        if str(getattr(self.peft_type, "value", self.peft_type)) != "LORA":
            raise ConfigError(f"LoraConfig: peft_type must be LORA, got {self.peft_type!r}")
        for name in ("target_modules", "exclude_modules", "modules_to_save"):
            value = getattr(self, name)
            if isinstance(value, (set, tuple)):
                setattr(self, name, sorted(value))
        if self.task_type in ("SEQ_CLS", "TOKEN_CLS"):
            self.modules_to_save = list(dict.fromkeys([*(self.modules_to_save or []), "classifier", "score"]))

    def scaling(self, name: str) -> tuple[int, float]:
        """(rank, factor) of the layer of that name."""
        rank = int(_pattern(self.rank_pattern, name, self.r))
        alpha = _pattern(self.alpha_pattern, name, self.lora_alpha)
        return rank, alpha / (rank**0.5 if self.use_rslora else rank)

    def save_pretrained(self, directory: str | Path, fan_in_fan_out: bool | None = None) -> None:
        """Writes adapter_config.json, as peft reads it."""
        values = {**dataclasses.asdict(self), "inference_mode": True, "revision": None}
        if fan_in_fan_out is not None:
            values["fan_in_fan_out"] = fan_in_fan_out
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / ADAPTER_CONFIG, json.dumps(values, indent=2, sort_keys=True) + "\n")

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> LoraConfig:
        """Reads adapter_config.json. Raises ConfigError for a field that would change the numbers and is not known."""
        path = Path(directory) / ADAPTER_CONFIG
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: no adapter there ({error.strerror})") from None
        except ValueError as error:
            raise ConfigError(f"{path}: not valid JSON ({error})") from None
        known = {field.name for field in dataclasses.fields(cls)}
        for name, value in values.items():
            if name not in known and name not in _WITHOUT_EFFECT and value not in (None, False, {}, []):
                raise ConfigError(
                    f"{path}: {name}={value!r} is not supported: the adapter would compute something else"
                )
        return cls(**{name: value for name, value in values.items() if name in known})


def _pattern(patterns: dict[str, Any], name: str, default: Any) -> Any:
    """peft's rule: the first pattern that is the name, or an expression for its end."""
    found = (value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", name))
    return next(found, default)


# ----------------------------------------------------------------------------------------------------- putting it in


def get_peft_model(model: PreTrainedModel, config: LoraConfig) -> PreTrainedModel:
    """Puts adapters into `model` and freezes everything else; returns the model itself.

    Only the adapters, and what `modules_to_save` and `bias` name, are trained from then on: the optimizer, the
    checkpoints and `save_pretrained` hold nothing else. Raises ConfigError if a name fits no linear layer.
    """
    if model.peft_config is not None:
        raise ConfigError("the model has an adapter already; call merge_and_unload() first")
    config = dataclasses.replace(config, base_model_name_or_path=config.base_model_name_or_path or model.name_or_path)
    targets = _targets(model, config)
    saved = [name for name, _ in named_modules(model) if _ends_with(name, config.modules_to_save or [])]
    for wanted in config.modules_to_save or []:
        optional = wanted in ("classifier", "score") and config.task_type in ("SEQ_CLS", "TOKEN_CLS")
        if not optional and not any(_ends_with(name, [wanted]) for name in saved):
            raise ConfigError(f"modules_to_save: no part of this {type(model).__name__} is called {wanted!r}")
    for parameter in model.parameters():
        parameter.requires_grad = False
    for name, parent, attribute in targets:
        if _ends_with(name, saved):
            raise ConfigError(f"{name} cannot be in target_modules and in modules_to_save")
        base = getattr(parent, attribute)
        if name == "lm_head" and config.lora_dropout:
            raise ConfigError("lora_dropout must be 0 with an adapter on lm_head, whose product with the loss is fused")
        setattr(parent, attribute, _adapted(model, name, base, config))
    modules = dict(named_modules(model))
    for name in saved:
        for parameter in modules[name].parameters():
            parameter.requires_grad = True
    adapted = {name for name, _, _ in targets}
    for name, parameter in model.named_parameters():
        owner, _, last = name.rpartition(".")
        if last == "bias" and (config.bias == "all" or config.bias == "lora_only" and owner in adapted):
            parameter.requires_grad = True
    model.peft_config = config
    return model


def named_modules(module: Module, prefix: str = "") -> list[tuple[str, Module]]:
    """Every part with its path, the module itself as "" first."""
    found = [(prefix, module)]
    for name, part in module.children():
        found += named_modules(part, f"{prefix}.{name}" if prefix else name)
    return found


def _ends_with(name: str, ends: list[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)


def _targets(model: PreTrainedModel, config: LoraConfig) -> list[tuple[str, Module, str]]:
    """(name, parent, attribute) of the layers that get an adapter."""
    wanted = config.target_modules
    if wanted is None:
        wanted = _DEFAULT_TARGETS.get(model.config.model_type)
        if wanted is None:
            raise ConfigError(f"target_modules must be given for a {model.config.model_type!r} model")
    layers = [
        (f"{name}.{attribute}" if name else attribute, parent, attribute)
        for name, parent in named_modules(model)
        for attribute, value in vars(parent).items()
        if isinstance(value, Linear)
    ]
    found = [layer for layer in layers if _is_target(layer[0], wanted) and _is_chosen(layer[0], config)]
    missing = [wanted] if isinstance(wanted, str) else [w for w in wanted if not _fits_any(w, layers)]
    if not found or (missing and not isinstance(wanted, str)):
        known = ", ".join(sorted({name.rpartition(".")[2] for name, _, _ in layers}))
        raise ConfigError(f"target_modules: no linear layer is called {missing[0]!r}; there are {known}")
    return found


def _fits_any(wanted: str, layers: list[tuple[str, Module, str]]) -> bool:
    return any(_ends_with(name, [wanted]) for name, _, _ in layers)


def _is_target(name: str, wanted: list[str] | str) -> bool:
    if wanted == "all-linear":
        return not _ends_with(name, list(_HEADS))
    return re.fullmatch(wanted, name) is not None if isinstance(wanted, str) else _ends_with(name, wanted)


def _is_chosen(name: str, config: LoraConfig) -> bool:
    excluded = config.exclude_modules
    if excluded is not None and _is_target(name, excluded):
        return False
    if config.layers_to_transform is None:
        return True
    chosen = config.layers_to_transform
    layer = re.search(r"\.(\d+)\.", name)
    return layer is not None and int(layer[1]) in ([chosen] if isinstance(chosen, int) else chosen)


def _adapted(model: PreTrainedModel, name: str, base: Linear, config: LoraConfig) -> LoraLinear:
    """The layer with a new adapter. A is uniform in +-1/sqrt(in), as torch's linear layers are, and B is 0."""
    shape = base.weight.shape if base.transpose_weight else base.weight.shape[::-1]
    out_features, in_features = shape
    rank, scaling = config.scaling(name)
    random = np.random.default_rng([model.generator.seed, *name.encode()])
    A = random.uniform(-1.0, 1.0, (rank, in_features)) / np.sqrt(in_features)
    if config.init_lora_weights == "gaussian":
        A = random.standard_normal((rank, in_features)) / rank
    B = np.zeros((out_features, rank))
    if config.init_lora_weights is False:
        B = random.uniform(-1.0, 1.0, (out_features, rank)) / np.sqrt(rank)
    dtype, device = base.weight.dtype, base.weight.device
    matrices = [Parameter(_core.from_numpy(value.astype(np.float32), dtype, device)) for value in (A, B)]
    return LoraLinear(base, *matrices, scaling, config.lora_dropout, model.generator)


def _layers(model: PreTrainedModel) -> dict[str, LoraLinear]:
    return {name: module for name, module in named_modules(model) if isinstance(module, LoraLinear)}


# ------------------------------------------------------------------------------------------------- merging and files


def merge_adapter(model: PreTrainedModel) -> None:
    """Makes the adapter part of the weights; `unmerge_adapter` takes it out again, bit for bit."""
    for layer in _layers(model).values():
        layer.merge()


def unmerge_adapter(model: PreTrainedModel) -> None:
    """Undoes `merge_adapter`."""
    for layer in _layers(model).values():
        layer.unmerge()


def unload(model: PreTrainedModel) -> None:
    """Takes the adapter's layers out; everything can be trained again."""
    for _, parent in named_modules(model):
        for attribute, value in list(vars(parent).items()):
            if isinstance(value, LoraLinear):
                setattr(parent, attribute, value.unload())
    for parameter in model.parameters():
        parameter.requires_grad = True
    model.peft_config = None


def adapter_tensors(model: PreTrainedModel) -> dict[str, _core.Tensor]:
    """What is trained, by the names of peft's files."""
    config = model.peft_config
    assert config is not None
    layers, tensors = _layers(model), {}
    for name, layer in layers.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = layer.lora_A.data
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = layer.lora_B.data
    for name, parameter in model.named_parameters():
        owner, _, last = name.rpartition(".")
        if parameter.requires_grad and last not in ("lora_A", "lora_B"):
            tensors[f"{_PREFIX}{owner}.{'base_layer.' if owner in layers else ''}{last}"] = parameter.data
    return tensors


def save_adapter(model: PreTrainedModel, directory: str | Path) -> None:
    """Writes adapter_model.safetensors and adapter_config.json, which peft loads, and the model's config.json."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{ADAPTER_WEIGHTS}.tmp"
    temporary.unlink(missing_ok=True)
    tensor_file.write_tensors(temporary, as_arrays(adapter_tensors(model)))
    temporary.replace(folder / ADAPTER_WEIGHTS)
    model.save_config(folder)  # with adapter_config.json


def save_adapter_config(model: PreTrainedModel, directory: str | Path) -> None:
    """Writes adapter_config.json."""
    assert model.peft_config is not None
    conv = any(not layer.transpose_weight for layer in _layers(model).values())
    model.peft_config.save_pretrained(directory, fan_in_fan_out=conv)


def as_arrays(tensors: dict[str, _core.Tensor]) -> dict[str, np.ndarray]:
    """Views of tensors as arrays; bfloat16 as its uint16 bits."""
    return {
        name: tensor.bf16_bits() if tensor.dtype == _core.DType.bfloat16 else tensor.numpy()
        for name, tensor in tensors.items()
    }


def load_adapter_arrays(model: PreTrainedModel, arrays: dict[str, np.ndarray], source: str) -> None:
    """Fills the adapter of `model` with the arrays of a file. Raises CheckpointError unless they fit one to one."""
    own, layers = adapter_tensors(model), _layers(model)
    given = {name if name in own else name.replace(".bias", ".base_layer.bias"): arrays[name] for name in arrays}
    # with an adapter on the head peft writes the head's own weight, too
    whole = {f"{_PREFIX}{name}.base_layer.weight": layer.weight.data for name, layer in layers.items()}
    own |= {name: tensor for name, tensor in whole.items() if name in given}
    for name in own:
        if name not in given:
            raise CheckpointError(f"{source}: {name!r} is missing; was the adapter made with another configuration?")
    for name, value in given.items():
        if name not in own:
            raise CheckpointError(f"{source}: {name!r} belongs to no adapted layer of this {type(model).__name__}")
        if tuple(value.shape) != own[name].shape:
            raise CheckpointError(f"{source}: {name} must have shape {own[name].shape}, got {tuple(value.shape)}")
    for name, value in given.items():
        own[name].copy_(_core.from_bf16_bits(value) if value.dtype == np.uint16 else _core.from_numpy(value))


class PeftModel:
    """peft's name for loading an adapter; the model stays of its own class."""

    @staticmethod
    def from_pretrained(model: PreTrainedModel, directory: str | Path, is_trainable: bool = False) -> PreTrainedModel:
        """`model` with the adapter in `directory`, as peft or this library wrote it; frozen unless `is_trainable`.

        Raises ConfigError for a configuration that is not understood, CheckpointError for weights that do not fit.
        """
        folder = Path(directory)
        config = LoraConfig.from_pretrained(folder)
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise CheckpointError(f"{folder}: {ADAPTER_WEIGHTS} is not there")
        get_peft_model(model, config)
        arrays = tensor_file.read_tensors((folder / ADAPTER_WEIGHTS).resolve())
        load_adapter_arrays(model, arrays, str(folder / ADAPTER_WEIGHTS))
        if not is_trainable:
            model.freeze()
        return model
