from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llmcore import _core

ROOT = Path(__file__).parents[2]
N = 300_000  # well above the grain of every op used here: 10 tasks


@pytest.fixture(autouse=True)
def default_threads() -> Iterator[None]:
    yield
    _core.set_num_threads(0)


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_number_of_threads():
    standard = _core.num_threads()
    assert 1 <= standard <= len(os.sched_getaffinity(0))
    for n in (1, 3, 7, 2):
        _core.set_num_threads(n)
        assert _core.num_threads() == n
        x = _core.from_numpy(np.arange(N, dtype=np.float32))
        np.testing.assert_array_equal(_core.add(x, x).numpy(), 2 * x.numpy())
    _core.set_num_threads(0)
    assert _core.num_threads() == standard
    for n in (-1, 1025):
        with pytest.raises(ValueError, match=rf"set_num_threads: n must be 0 \(default\) to 1024, got {n}"):
            _core.set_num_threads(n)


def test_the_default_is_what_the_process_may_use():
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from llmcore import _core
print(_core.num_threads())
"""
    assert run(code) == "1"


TOGETHER = """
import threading
import numpy as np
from llmcore import _core

N = 300_000
_core.set_num_threads(4)
wrong = []

def work(seed):
    x = np.random.default_rng(seed).standard_normal(N).astype(np.float32)
    tensor, expected = _core.from_numpy(x), x + x
    norm = np.sqrt((x.astype(np.float64) ** 2).sum())
    for _ in range(100):
        if not np.array_equal(_core.add(tensor, tensor).numpy(), expected):
            wrong.append(seed)
        if abs(_core.global_norm([tensor]).item() - norm) > 1e-6 * norm:
            wrong.append(seed)

threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2, 3)]
for thread in threads:
    thread.start()
for _ in range(20):  # the pool is exchanged while they run
    for n in (2, 5, 1, 4):
        _core.set_num_threads(n)
        _core.zeros((N,))
for thread in threads:
    thread.join()
print("wrong", wrong)
"""


def test_python_threads_at_once_do_not_disturb_each_other():
    assert run(TOGETHER) == "wrong []"  # in a process of its own: two jobs in one pool would wait for ever


FORK = """
import os, signal
import numpy as np
from llmcore import _core

_core.set_num_threads(4)
x = _core.from_numpy(np.arange(300_000, dtype=np.float32))
expected = 2 * x.numpy()
assert np.array_equal(_core.add(x, x).numpy(), expected)
child = os.fork()
if child == 0:
    signal.alarm(20)  # a child that hangs dies by this
    good = _core.num_threads() == 4
    for n in (4, 2, 0):
        _core.set_num_threads(n)
        good = good and np.array_equal(_core.add(x, x).numpy(), expected)
    os._exit(0 if good else 1)
_, status = os.waitpid(child, 0)
assert np.array_equal(_core.add(x, x).numpy(), expected)  # the parent still has its pool
print("child", os.waitstatus_to_exitcode(status))
"""


def test_after_fork_the_child_works():
    assert run(FORK) == "child 0"


def test_a_fork_while_another_thread_is_inside():
    """The child inherits every lock as it was: the allocator's and the pool's must not stay taken in it."""
    code = """
import os, signal, threading
import numpy as np
from llmcore import _core

_core.set_num_threads(3)
large, sizes = _core.from_numpy(np.ones(100_000, np.float32)), [1] * 2000
stop = False
def work():
    while not stop:
        _core.empty_cache()
        _core.split(large.narrow(0, 2000), sizes, 0)  # without the GIL, 2,000 blocks from the system
        _core.add(large, large)
thread = threading.Thread(target=work)
thread.start()
codes = set()
for _ in range(100):
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        os._exit(0 if _core.add(large, large).numpy()[-1] == 2 else 1)
    codes.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    if codes != {0}:
        break
stop = True
thread.join()
print(codes)
"""
    assert run(code) == "{0}"


def test_fewer_threads_than_wanted_are_enough():
    code = """
import resource
import numpy as np
from llmcore import _core

x = _core.from_numpy(np.arange(300_000, dtype=np.float32))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)  # room for the stacks of some threads
_core.set_num_threads(1024)
print(np.array_equal(_core.add(x, x).numpy(), 2 * x.numpy()))
"""
    assert run(code) == "True"


def test_threads_that_change_during_an_op_do_not_change_it():
    """The workspace is sized by the number of threads, so the op must not run on more. Sees that every other time."""
    code = """
import sys, threading, time
import numpy as np
from llmcore import _core

sys.setswitchinterval(1e-6)
stop = False
def change():
    while not stop:
        _core.set_num_threads(1)
        _core.set_num_threads(1024)
thread = threading.Thread(target=change)
thread.start()
x, nothing = _core.zeros((1, 1, 64)), _core.from_numpy(np.array([0]))
options = _core.AttentionOptions(1, 1, False, nothing, None, 0.0, 0, 0)
end = time.monotonic() + 2
while time.monotonic() < end:
    _core.attention_forward(x, x, x, options)
stop = True
thread.join()
print("whole")
"""
    assert run(code) == "whole"


def test_an_error_inside_leaves_the_pool_usable():
    x = _core.from_numpy(np.arange(N, dtype=np.float32))
    _core.set_num_threads(3)
    for _ in range(3):
        with pytest.raises(ValueError):
            _core.add(x, _core.zeros((N + 1,)))
        np.testing.assert_array_equal(_core.add(x, x).numpy(), 2 * x.numpy())
