"""Models in lm-evaluation-harness: `simple_evaluate(model=HarnessLM(folder), tasks=[...])`.

Needs the package lm_eval (the extra `lm-eval`), but neither torch nor the network: tasks may be local files. What
is asked for, and how a request becomes tokens, is the harness's own code (`TemplateLM`); here tokens become
log-likelihoods and texts. Importing this module makes the name "llmcore" known to the harness's registry.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmcore import _core
from llmcore import functional as F
from llmcore.errors import ConfigError
from llmcore.inference import context_length, inference

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] != "lm_eval":
        raise
    raise ConfigError(
        "tasks of lm-evaluation-harness need lm_eval, which is not installed: pip install 'llmcore[lm-eval]'"
    ) from None

_LOGITS = 1 << 25  # numbers of the vocabulary's scores that exist at once: 256 MiB as float64
_NEW_TOKENS = 256  # the harness's own default
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")


@register_model("llmcore")
class HarnessLM(TemplateLM):
    """A decoder as the harness wants it.

    Args:
        pretrained: the model's folder, or a model with its tokenizer.
        batch_size: requests that are computed together; results do not depend on it.
        max_length: tokens that the model sees at once; None means its context.
        tokenizer: instead of the model's own.
        device: "cpu", "cuda", or "auto" (the default): a GPU where there is one.

    Raises ConfigError for a model without a tokenizer or with neither a beginning nor an end of text.
    """

    def __init__(
        self,
        pretrained: Any,
        batch_size: int | str = 8,
        max_length: int | None = None,
        tokenizer: Any = None,
        device: str | None = None,
        **ignored: Any,
    ) -> None:
        super().__init__()
        if isinstance(pretrained, (str, os.PathLike)):
            from llmcore.machine import find_device
            from llmcore.models import AutoModelForCausalLM

            pretrained = AutoModelForCausalLM.from_pretrained(pretrained, device=find_device(device or "auto"))
        self.model = pretrained
        self.tokenizer = tokenizer if tokenizer is not None else pretrained.tokenizer
        if self.tokenizer is None:
            raise ConfigError("the model has no tokenizer: pass tokenizer=..., or save one in its folder")
        ends = (self.tokenizer.eos_token_id, self.tokenizer.bos_token_id)
        if ends == (None, None):
            raise ConfigError("the tokenizer has no eos_token or bos_token, which a text has to begin with")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ConfigError(f"batch_size must be a number of at least 1, got {batch_size!r}")
        self.batch_size = int(batch_size)
        self._max_length = int(max_length) if max_length is not None else context_length(pretrained) or 2048

    # ---- what the harness asks about ----

    @property
    def max_length(self) -> int:
        """Tokens that the model sees at once."""
        return self._max_length

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        token = self.tokenizer.eos_token_id
        return int(token if token is not None else self.tokenizer.bos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The id that a text without a context is taken to follow."""
        token = self.tokenizer.bos_token_id
        return int(token if token is not None else self.tokenizer.eos_token_id)

    @property
    def tokenizer_name(self) -> str:
        """For the harness's caches: two tokenizers of the same name give equal ids."""
        return str(self.tokenizer.fingerprint())

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of a text; None adds what the tokenizer adds, unless the text begins with that already."""
        if add_special_tokens is None:
            begins = self.tokenizer.convert_ids_to_tokens(self.prefix_token_id)
            add_special_tokens = not string.startswith(begins)
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens).tolist()

    # ---- log-likelihoods ----

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each text, in disjoint windows whose first token is predicted from one before it."""
        windows, owners = [], []
        for number, request in enumerate(requests):
            (text,) = request.args
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, rolling):
                windows.append((("", ""), context, continuation))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += value
        for request, value in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Of each continuation after its context: its log-likelihood, and whether it is what greedy decoding writes."""
        results: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        # the longest first: rows of a batch are of similar length, and too little memory shows at once
        order = sorted(range(len(requests)), key=lambda number: -len(requests[number][1]) - len(requests[number][2]))
        with inference(self.model):
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size]
                scored = self._score([requests[number][1:] for number in chosen])
                for number, result in zip(chosen, scored, strict=True):
                    results[number] = result
                    text = requests[number][0]
                    if text != ("", ""):
                        self.cache_hook.add_partial("loglikelihood", text, result)
        return results

    def _score(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        # what is too long loses its beginning; the last token predicts nothing
        inputs = [(context + continuation)[-(self.max_length + 1) :][:-1] for context, continuation in rows]
        ids = np.zeros((len(rows), max(map(len, inputs))), np.int32)  # padded on the right, where nobody looks
        places = []
        for number, (row, (_, continuation)) in enumerate(zip(inputs, rows, strict=True)):
            ids[number, : len(row)] = row
            places.append(number * ids.shape[1] + np.arange(len(row) - len(continuation), len(row)))
        device = self.model.device
        x = self.model.base_model(_core.from_numpy(ids, device=device), None, None, None, None)  # (B, T, C)
        x = F.view(x, (-1, x.shape[-1]))
        targets = np.concatenate([np.asarray(continuation, np.int64) for _, continuation in rows])
        likelihoods, greedy = self._targets(x, np.concatenate(places).astype(np.int32), targets)
        ends = np.cumsum([len(continuation) for _, continuation in rows])[:-1]
        return [
            (float(values.sum()), bool(hits.all()))
            for values, hits in zip(np.split(likelihoods, ends), np.split(greedy, ends), strict=True)
        ]

    def _targets(self, x: Any, places: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of rows `places` of x (N, C): the log-likelihood of each one's target, float64, and whether it is the
        likeliest token, the first of equals."""
        likelihoods, greedy = np.empty(len(targets)), np.empty(len(targets), bool)
        step = max(1, _LOGITS // self.model.head_weight.shape[0])
        for start in range(0, len(targets), step):
            part = slice(start, start + step)
            rows = F.embedding(_core.from_numpy(places[part], device=self.model.device), x)
            logits = F.linear(rows, self.model.head_weight).numpy().astype(np.float64)  # (rows, V)
            greedy[part] = logits.argmax(-1) == targets[part]
            logits -= logits.max(-1, keepdims=True)
            chosen = np.take_along_axis(logits, targets[part][:, None], axis=1)[:, 0]
            likelihoods[part] = chosen - np.log(np.exp(logits).sum(-1))
        return likelihoods, greedy

    # ---- texts ----

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The texts that follow the contexts, up to a stop string, the end of text or a number of tokens."""
        texts = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        for members in groups.values():
            settings = _generation_settings(requests[members[0]].args[1])
            room = self.max_length - settings["max_new_tokens"]
            if room < 1:
                raise ConfigError(
                    f"the task asks for {settings['max_new_tokens']} new tokens, and the model sees {self.max_length} "
                    "at once: set a smaller max_gen_toks"
                )
            prompts = {number: self.tok_encode(requests[number].args[0])[-room:] for number in members}
            members.sort(key=lambda number: -len(prompts[number]))
            for start in range(0, len(members), self.batch_size):
                chosen = members[start : start + self.batch_size]
                for number, text in zip(chosen, self._continue([prompts[n] for n in chosen], settings), strict=True):
                    texts[number] = text
                    self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return texts

    def _continue(self, prompts: Sequence[list[int]], settings: Mapping[str, Any]) -> list[str]:
        width = max(map(len, prompts))
        ids, mask = np.zeros((2, len(prompts), width), np.int32)
        for number, prompt in enumerate(prompts):
            ids[number, width - len(prompt) :] = prompt
            mask[number, width - len(prompt) :] = 1
        output = self.model.generate(
            *(ids,), attention_mask=mask, tokenizer=self.tokenizer, return_dict_in_generate=True, **settings
        )
        return list(output.texts)


def _generation_settings(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The harness's names -> those of GenerationConfig. Greedy unless `do_sample` is set, or only a temperature is."""
    settings = dict(asked)
    until = settings.pop("until", None) or []
    limits = [settings.pop(name, None) for name in _LIMITS]
    result: dict[str, Any] = {
        "max_new_tokens": next((int(limit) for limit in limits if limit is not None), _NEW_TOKENS),
        "stop_strings": [until] if isinstance(until, str) else [text for text in until if text],
        "do_sample": bool(settings.pop("do_sample", settings.get("temperature") or False)),
    }
    sampling = {name: settings.pop(name) for name in _SAMPLING if name in settings}
    return {**result, **(sampling if result["do_sample"] else {}), **settings}


def evaluate_tasks(
    model: HarnessLM, tasks: Sequence[str], include_path: Sequence[str] = (), **options: Any
) -> dict[str, Any]:
    """Runs tasks of the harness, and those whose YAML files lie in the folders `include_path`.

    Returns {task: {measure: value}}. `options` are those of `lm_eval.simple_evaluate`, such as limit and num_fewshot.
    Raises ConfigError for a task that does not exist.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=list(include_path) or None, include_defaults=False)
    if not set(tasks) <= set(manager.all_tasks):  # only now, because the harness takes seconds to list its own
        manager = TaskManager(include_path=list(include_path) or None)
    unknown = [name for name in tasks if name not in manager.all_tasks]
    if unknown:
        raise ConfigError(
            f"there is no task {unknown[0]!r} in lm-evaluation-harness; tasks of your own are YAML files in a folder "
            "that include_path names"
        )
    output = simple_evaluate(model=model, tasks=list(tasks), task_manager=manager, **options)
    return {
        task: {
            name.removesuffix(",none").replace(",", "_"): value
            for name, value in values.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        for task, values in output["results"].items()
    }
