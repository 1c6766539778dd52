"""Every benchmark runs, and finds that it computes the right thing before it measures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.train import race, report, table
from benchmarks.train.opponents import Samples

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks" / "kernels").glob("bench_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_it_runs(name):
    command = [sys.executable, "-m", f"benchmarks.kernels.{name}", "--seconds", "0", "--threads", "2"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    head, *rows = [line for line in result.stdout.splitlines() if line.startswith("|")]
    assert head == "| measurement | llmcore | of the peak | torch | llmcore is faster |"
    assert all(row.count("|") == 6 for row in rows) and sum(" us, " in row for row in rows) >= 2
    assert f"`python -m benchmarks.kernels.{name} --seconds 0 --threads 2`" in result.stdout


def run(*arguments: str) -> str:
    result = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("workload", ["smoke", "smoke-bert"])
def test_training_steps_run_and_compute_the_same(workload, tmp_path):
    """The processes speak to one another, their losses agree, and the results can be read."""
    pytest.importorskip("torch")
    path = tmp_path / "times.jsonl"
    command = ["benchmarks.train", "--workload", workload, "--opponents", "llmcore", "torch-eager", "--seconds", "0"]
    text = run(*command, "--json", str(path))
    assert "tokens/s" in text and "MiB" in text
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["dtype"] for record in records] == ["float32", "bfloat16"]
    for record in records:
        ours, theirs = record["results"]
        assert (ours["opponent"], theirs["opponent"], ours["steps"]) == ("llmcore", "torch-eager", 1)
        assert len(ours["losses"]) == 4 and ours["losses"][0] != ours["losses"][1]
        np.testing.assert_allclose(ours["losses"], theirs["losses"], atol=race.TOLERANCE[record["dtype"]])
        assert 10 << 20 < ours["peak_memory"] < theirs["peak_memory"] and ours["first_step"] > ours["seconds"] > 0


def test_training_steps_are_not_timed_if_the_losses_differ(monkeypatch):
    class Fake:
        def __init__(self, name, *rest):
            self.name, self.samples = name, Samples(losses=[4.0, 3.9 if name == "llmcore" else 3.8])

        def check_steps(self, steps):
            pass

        def measure(self, steps):
            raise AssertionError("timed")

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(race, "Opponent", Fake)
    with pytest.raises(
        race.LossesDiffer, match=r"torch-eager computes other losses, \[4.0, 3.8\] instead of \[4.0, 3.9\]"
    ):
        race.race("smoke", "bfloat16", 1, ["llmcore", "torch-eager"], 1.0)


def test_the_table_of_training_steps():
    def result(opponent, seconds, peak):
        return dict(opponent=opponent, seconds=seconds, peak_memory=peak << 20, faults_per_step=5.0)

    record = dict(workload="gpt2-b4-t64", dtype="bfloat16", threads=2)
    first = [result("llmcore", 0.1, 60), result("torch-eager", 0.3, 100), result("torch-compiled", 0.15, 80)]
    second = [result("llmcore", 0.2, 60), result("torch-tuned", 0.28, 70)]  # a slower moment, and its own comparison
    rows = report.text([{**record, "results": first}, {**record, "results": second}]).splitlines()
    (line,) = [row for row in rows if row.startswith("| gpt2-b4-t64 | bfloat16 | 2 ")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[3:7] == ["100.0", "300.0", "150.0", "280.0"]
    assert cells[7:] == ["1.50 (1.7, missed)", "1.40 (1.4)", "60", "0.75 (0.85)", "5 / 5"]
    assert any("Not measured" in row and "gpt2-b4-t64 float32 2" in row and "LSTM" in row for row in rows)


def test_the_table_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "times.jsonl"
    assert table.measured(path) == set()
    run = table.runs()[0]
    results = [{"opponent": name} for name in run.opponents]
    path.write_text(
        json.dumps(dict(workload=run.workload, dtype=run.dtype, threads=run.threads, results=results)) + "\n"
    )
    assert table.measured(path) == {run}
    assert {run.workload for run in table.runs()} == set(report.TARGETS)
    assert {(run.workload, run.threads) for run in table.runs(["gpt2-b4-t1024", "tiny"], [1])} == {
        ("gpt2-b4-t1024", 1),
        ("tiny", 1),
    }
