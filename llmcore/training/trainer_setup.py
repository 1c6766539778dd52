"""The trainer's parts and how they are made: model, datasets, callbacks, loader, optimizer, schedule, memory plan."""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from llmcore import _core, schedule
from llmcore.errors import ConfigError
from llmcore.inference import context_length
from llmcore.machine import find_device, is_gpu
from llmcore.models.pretrained import PreTrainedModel
from llmcore.nn import Module
from llmcore.optim import Optimizer, create_optimizer
from llmcore.training import callbacks as callback_module
from llmcore.training.arguments import TrainingArguments
from llmcore.training.batches import accepted_arguments, make_loader, predicts_words, shifts_labels, task_of
from llmcore.training.callbacks import CallbackHandler, TrainerCallback, TrainerControl, TrainerState
from llmcore.training.memory_plan import MemoryPlan, available_memory, plan_memory, refuse
from llmcore.training.metrics_log import MetricsFileCallback, TensorBoardCallback
from llmcore.training.plot import PlotCallback
from llmcore.training.progress import ProgressCallback
from llmcore.training.run_state import Counters, generators
from llmcore.training.signals import StopSignals
from llmcore.training.text_examples import is_text, tokenize_rows

logger = logging.getLogger("llmcore")


class _OnLog(TrainerCallback):
    """Hands every log entry to a function."""

    def __init__(self, function: Callable[[dict[str, Any]], None]) -> None:
        self.function = function

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.function(dict(kwargs["logs"]))


class TrainerSetup:
    """Holds what a run consists of; `prepare` makes the parts that depend on the data and the arguments."""

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[[], Any] | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Any = None,
        callbacks: Iterable[TrainerCallback | type[TrainerCallback]] | None = None,
        optimizers: tuple[Optimizer | None, Callable[[int], float] | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
        *,
        tokenizer: Any = None,
        on_log: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        if args is not None and not isinstance(args, TrainingArguments):
            raise ConfigError(
                f"args must be TrainingArguments, got {type(args).__name__}: write TrainingArguments(...)"
            )
        self.args = args if args is not None else TrainingArguments()
        if tokenizer is not None and processing_class is not None:
            raise ConfigError("tokenizer is another name of processing_class: give one of them")
        if (model is None) == (model_init is None):
            raise ConfigError("a trainer needs either model or model_init")
        if optimizers[0] is not None and optimizer_cls_and_kwargs is not None:
            raise ConfigError("give either optimizers or optimizer_cls_and_kwargs")
        self._wanted_device = find_device("cpu" if self.args.use_cpu else self.args.device)
        self.processing_class = processing_class if processing_class is not None else tokenizer
        self.model_init = model_init
        self._given_optimizers = optimizers
        self.model = self._placed(self._load_model(model) if model is not None else model_init())  # type: ignore[misc]
        self.data_collator = data_collator
        self.compute_loss_func = compute_loss_func
        self.compute_metrics = compute_metrics
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        self.train_dataset = self._tokenized(train_dataset)
        self.eval_dataset = (
            {name: self._tokenized(dataset) for name, dataset in eval_dataset.items()}
            if isinstance(eval_dataset, dict)
            else self._tokenized(eval_dataset)
        )
        self._join_tokenizer()
        self._optimizer_class = optimizer_cls_and_kwargs
        self.optimizer: Optimizer | None = optimizers[0]
        self.lr_scheduler: Callable[[int], float] | None = optimizers[1]
        self.state, self.control, self.counters = TrainerState(), TrainerControl(), Counters()
        self.loader: Any = None
        self.data_state: dict[str, Any] = {"epoch": 0, "position": 0}
        self.batch_size = self.args.per_device_train_batch_size
        self.accumulation = self.args.gradient_accumulation_steps
        self.stop_reason: str | None = None
        self._signals = StopSignals(enabled=False)
        self._busy = threading.Lock()
        self._began, self._seconds_before = time.monotonic(), 0.0  # of this run; training time of earlier parts
        self._model_takes = accepted_arguments(self.model)
        self._shifted = shifts_labels(self.model)
        self._label_name = (self.args.label_names or ["labels"])[0]
        self.callback_handler = CallbackHandler(self._default_callbacks())
        for callback in [*(callbacks or ()), *([_OnLog(on_log)] if on_log is not None else [])]:
            self.callback_handler.add(callback)
        self._call("on_init_end")

    # -------------------------------------------------------------------------------------- callbacks

    def _default_callbacks(self) -> list[TrainerCallback]:
        found: list[TrainerCallback] = [callback_module.DefaultFlowCallback(), MetricsFileCallback(), PlotCallback()]
        if "tensorboard" in self.args.report_to.split(","):
            found.append(TensorBoardCallback())
        if self.args.disable_tqdm is False:
            found.append(ProgressCallback())
        return found

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Appends a callback, given as an object or a class."""
        self.callback_handler.add(callback)

    def pop_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> TrainerCallback | None:
        """Removes a callback, given as the object or its class, and returns it."""
        return self.callback_handler.pop(callback)

    def remove_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Removes a callback, given as the object or its class."""
        self.callback_handler.pop(callback)

    def _call(self, event: str, **kwargs: Any) -> None:
        self.control = self.callback_handler.call(
            event,
            self.args,
            self.state,
            self.control,
            model=self.model,
            processing_class=self.processing_class,
            optimizer=self.optimizer,
            lr_scheduler=self.lr_scheduler,
            train_dataloader=self.loader,
            **kwargs,
        )

    # ------------------------------------------------------------------------------------------- data

    def _load_model(self, model: Any) -> Any:
        if isinstance(model, (str, Path)):
            from llmcore.models.auto import load_model

            return load_model(model)
        if not isinstance(model, Module):
            raise ConfigError(
                f"model must be a model of llmcore or the folder of one, got {type(model).__name__}; a function that "
                "makes a model is model_init="
            )
        return model

    def _placed(self, model: Any) -> Any:
        """The model on the device of the arguments. "auto" leaves one that is on a GPU, or that an optimizer has taken
        over, where it is.
        """
        now, wanted = next(iter(model.parameters())).device, self._wanted_device
        chosen = self.args.use_cpu or self.args.device != "auto"
        taken = self._given_optimizers[0] is not None
        if now == wanted or not chosen and (taken or is_gpu(now)):
            return model
        if taken:
            raise ConfigError(
                f"the optimizer was made for the model on {now}, and the arguments say device={wanted!r}: make it "
                f"after model.to({wanted!r})"
            )
        return model.to(wanted)

    def _join_tokenizer(self) -> None:
        """Lets the model speak through the tokenizer it is trained with: `model.generate("text")` works, and its
        configurations name this tokenizer's special tokens, as transformers' trainer sees to it.
        """
        model, tokenizer = self.model, self.processing_class
        if tokenizer is None or not isinstance(model, PreTrainedModel):
            return
        model.tokenizer = tokenizer
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            token = getattr(tokenizer, name, None)
            for config in (model.config, getattr(model, "generation_config", None)):
                if not hasattr(config, name):
                    continue
                old = getattr(config, name)
                if isinstance(old, (list, tuple)) and token in old:
                    continue  # several tokens end a text, this one among them
                if token is not None and old != token:
                    setattr(config, name, token)
                elif token is None and isinstance(old, int) and old >= model.config.vocab_size:
                    setattr(config, name, None)

    def _tokenized(self, dataset: Any) -> Any:
        if dataset is None or not is_text(dataset, self.args.dataset_text_field):
            return dataset
        return tokenize_rows(
            *(dataset, self.processing_class, self.args, context_length(self.model), task_of(self.model)),
            config=getattr(self.model, "config", None),
        )

    def _collator(self) -> Callable[[list[Any]], dict[str, Any]] | None:
        if self.data_collator is not None or self.processing_class is None:
            return self.data_collator
        from llmcore.data import collators

        # transformers pads only, which leaves these tasks without labels; there is no other sensible default
        task, tokenizer = task_of(self.model), self.processing_class
        if task == "masked-lm":
            return collators.DataCollatorForLanguageModeling(tokenizer, mlm=True, seed=self.args.seed)
        if task == "causal-lm":
            return collators.DataCollatorForLanguageModeling(tokenizer, mlm=False)
        if task == "token-classification":
            return collators.DataCollatorForTokenClassification(tokenizer)
        return collators.DataCollatorWithPadding(tokenizer)

    def _make_loader(self, dataset: Any, batch_size: int, training: bool) -> Any:
        columns = self._model_takes | {self._label_name} if self.args.remove_unused_columns else None
        collator = self._collator()
        return make_loader(
            dataset, self.args, batch_size=batch_size, collator=collator, columns=columns, training=training
        )

    # ------------------------------------------------------------------------------------ preparation

    def prepare(self) -> MemoryPlan | None:
        """Makes loader, optimizer and schedule and sets the counters to zero. Returns the memory plan, if there is a
        loader.

        Raises OutOfMemoryError if the plan does not fit, ConfigError if the number of updates cannot be known.
        """
        args = self.args
        self.state, self.control, self.counters = TrainerState(), TrainerControl(), Counters()
        self.stop_reason = None
        self._began, self._seconds_before = time.monotonic(), 0.0
        self.batch_size, self.accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
        self.loader = None
        if args.activation_checkpointing is not None and hasattr(self.model, "gradient_checkpointing_enable"):
            enable, disable = self.model.gradient_checkpointing_enable, self.model.gradient_checkpointing_disable
            (enable if args.activation_checkpointing else disable)()
        for index, generator in enumerate(generators(self.model)):
            generator.seed = args.seed + index
        plan = self._plan_and_load() if self.train_dataset is not None else None
        self.state.max_steps = self._max_steps()
        for name in ("logging_steps", "eval_steps", "save_steps"):
            value = getattr(args, name) or 0
            # below 1 it is a part of all updates
            setattr(self.state, name, max(1, math.ceil(value * self.state.max_steps) if value < 1 else int(value)))
        self.state.train_batch_size = self.batch_size
        self.state.num_train_epochs = math.ceil(args.num_train_epochs)
        self._create_optimizer_and_scheduler()
        self.data_state = self.loader.state() if self.loader is not None else {"epoch": 0, "position": 0}
        return plan

    def _plan_and_load(self) -> MemoryPlan | None:
        plan = None
        while True:
            self.loader = self._make_loader(self.train_dataset, self.batch_size, training=True)
            plan = self._memory_plan()
            if plan is None or plan.fits:
                return plan
            can_halve = self.args.auto_find_batch_size and self.batch_size % 2 == 0
            if not can_halve or getattr(self.loader, "batch_size", None) != self.batch_size:
                raise refuse(plan, functools.partial(self._replan, plan), self.accumulation)
            self.batch_size //= 2
            self.accumulation *= 2
            logger.warning(
                "the memory plan does not fit: micro-batches of %d with %d accumulated, the update stays the same",
                self.batch_size,
                self.accumulation,
            )

    def _memory_plan(self) -> MemoryPlan | None:
        length = self._sequence_length()
        if length is None:
            return None
        return self._replan(
            None, batch_size=getattr(self.loader, "batch_size", self.batch_size), sequence_length=length
        )

    def _replan(self, plan: MemoryPlan | None, **changes: Any) -> MemoryPlan:
        """The plan with some settings changed; memory that the weights take already counts as available."""
        args, dtype = self.args, self._dtype()
        settings = (
            plan.settings
            if plan is not None
            else {"activation_checkpointing": bool(getattr(self.model, "activation_checkpointing", False))}
        )
        available = plan.available if plan is not None else available_memory(self._device()) + self._allocated()
        limit = args.memory_limit_bytes()
        sizes = [(parameter.data.numel, parameter.requires_grad) for parameter in self.model.parameters()]
        return plan_memory(
            getattr(self.model, "config", None),
            sum(size for size, _ in sizes),
            num_frozen=sum(size for size, trained in sizes if not trained),
            optim=args.optim,
            momentum="momentum" in (args.optim_args or ""),
            stochastic_rounding="stochastic_rounding=true" in (args.optim_args or "").lower(),
            bf16=dtype == _core.DType.bfloat16,
            predicts_words=predicts_words(self.model) or task_of(self.model) is None,
            device=self._device(),
            available=available if limit is None else min(available, limit),
            **{**settings, **changes},
        )

    def _allocated(self) -> int:
        return _core.memory_stats(self._device())["reserved"]

    def _device(self) -> str:
        return next(iter(self.model.parameters())).device

    def _sequence_length(self) -> int | None:
        """Tokens of the longest sequence that the loader may give out, None if that cannot be known."""
        dataset = getattr(self.loader, "dataset", None)
        if hasattr(dataset, "block_size"):
            return dataset.block_size
        examples = getattr(dataset, "examples", None)
        if examples is None or not hasattr(examples[0], "keys") or "input_ids" not in examples[0]:
            return context_length(self.model)
        return max(len(example["input_ids"]) for example in examples)

    def _dtype(self) -> _core.DType:
        """The dtype of the weights in training: `bf16` decides; None means bfloat16 on a GPU, and on the CPU what the
        model has."""
        if self.args.bf16 is None and (not is_gpu(self._device()) or self._given_optimizers[0] is not None):
            return next(iter(self.model.parameters())).dtype
        if self.args.bf16 is None:
            return _core.DType.bfloat16
        return _core.DType.bfloat16 if self.args.bf16 else _core.DType.float32

    def _max_steps(self) -> int:
        args, loader = self.args, self.loader
        if args.max_steps > 0:
            return args.max_steps
        if loader is None or not hasattr(loader, "__len__"):
            if (
                loader is None
                and self._given_optimizers[1] is None
                and not args.lr_scheduler_type.startswith("constant")
            ):
                raise ConfigError(
                    f"the schedule {args.lr_scheduler_type!r} needs the number of updates: set max_steps, or "
                    "lr_scheduler_type='constant'"
                )
            if loader is not None:
                raise ConfigError("the training data has no length, so max_steps must say how many updates to make")
            return 0
        steps = math.ceil(args.num_train_epochs * math.ceil(len(loader) / self.accumulation))
        block_size = getattr(getattr(loader, "dataset", None), "block_size", None)
        if args.max_train_tokens is not None and block_size:
            # known beforehand, so the schedule ends where the training does
            steps = min(steps, math.ceil(args.max_train_tokens / (loader.batch_size * block_size * self.accumulation)))
        return max(1, steps)

    def _create_optimizer_and_scheduler(self) -> None:
        args = self.args
        given_optimizer, given_scheduler = self._given_optimizers
        if given_optimizer is not None:
            self.optimizer = given_optimizer
        elif self._optimizer_class is not None:
            optimizer_class, options = self._optimizer_class
            self.optimizer = optimizer_class(self.model, **{"learning_rate": args.learning_rate, **options})
        else:
            self.optimizer = create_optimizer(self.model, args, self._dtype())
        if given_scheduler is not None:
            self.lr_scheduler = given_scheduler
        elif args.lr_scheduler_type == "reduce_lr_on_plateau":
            mode = {"mode": "max"} if args.greater_is_better else {}
            self.lr_scheduler = schedule.ReduceLROnPlateau(
                args.learning_rate, **{**mode, **(args.lr_scheduler_kwargs or {})}
            )
        else:
            total = self.state.max_steps or None
            self.lr_scheduler = schedule.get_scheduler(
                args.lr_scheduler_type,
                num_warmup_steps=args.get_warmup_steps(total or 0),
                num_training_steps=total,
                learning_rate=args.learning_rate,
                **(args.lr_scheduler_kwargs or {}),
            )
