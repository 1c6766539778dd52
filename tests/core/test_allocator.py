from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from llmcore import _core
from llmcore.errors import LlmcoreError, OutOfMemoryError

MIB = 1 << 20


def allocated() -> int:
    return _core.memory_stats("cpu")["allocated"]


def bytes_of(n: int) -> _core.Tensor:
    """A tensor of n bytes."""
    return _core.empty((n // 4,))


@pytest.fixture(autouse=True)
def no_limit_and_no_cache() -> Iterator[None]:
    gc.collect()
    _core.empty_cache()
    yield
    _core.set_memory_limit(0)


def test_live_blocks_are_counted_and_freed_with_their_last_owner():
    start = _core.memory_stats()
    tensor = bytes_of(1000)
    assert allocated() == start["allocated"] + 1024  # the next power of two
    assert _core.memory_stats()["allocations"] == start["allocations"] + 1
    view, array = tensor.narrow(1, 2), tensor.numpy()
    del tensor
    assert allocated() == start["allocated"] + 1024
    del view
    assert allocated() == start["allocated"] + 1024
    del array
    assert allocated() == start["allocated"]


@pytest.mark.parametrize("n", [0, 4, 60, 64, 68, 1000, MIB - 4, MIB + 4, 3 * MIB + 4, 17 * MIB + 4, 100 * MIB - 4])
def test_little_is_wasted_and_blocks_are_aligned(n):
    before = allocated()
    tensor = bytes_of(n)
    size = allocated() - before
    assert size >= max(n, 64)
    if n > MIB:
        assert size <= n * 1.125
    elif n > 64:
        assert size < 2 * n
    assert tensor.data_ptr % 64 == 0


def test_freed_blocks_are_used_again():
    first = bytes_of(300_000)
    address = first.data_ptr
    del first
    reserved = _core.memory_stats()["reserved"]
    second = bytes_of(400_000)  # the same class, 512 KiB
    assert second.data_ptr == address
    assert _core.memory_stats()["reserved"] == reserved
    other = bytes_of(600_000)
    assert _core.memory_stats()["reserved"] == reserved + MIB
    assert other.data_ptr != address


VARYING = """
from llmcore import _core
MIB = 2**20
most = 0
for number in range(60):
    size = (8 + number * 7 % 31) * MIB  # 31 sizes, in many classes
    held = [_core.empty((n,), _core.DType.int32) for n in (size // 4, size // 8, size // 4)]
    most = max(most, _core.memory_stats()["allocated"])
    assert len({tensor.data_ptr for tensor in held}) == 3
    held[1].fill_(1)
    del held
stats = _core.memory_stats()
assert stats["allocated"] == 0, stats
assert stats["peak_allocated"] == most
assert stats["reserved"] <= 1.25 * most, (stats, most)
"""


def test_varying_sizes_do_not_pile_up():
    """As batches of varying length ask for them: what is held stays near what is ever in use at once."""
    subprocess.run([sys.executable, "-c", VARYING], check=True)  # a process of its own: the bound follows its peak


def test_empty_cache_gives_back_what_is_not_in_use():
    kept, freed = bytes_of(MIB), bytes_of(MIB)
    before = _core.memory_stats()
    del freed
    assert _core.memory_stats()["reserved"] == before["reserved"]
    _core.empty_cache()
    assert _core.memory_stats()["reserved"] == before["reserved"] - MIB
    kept.fill_(1.0)


def test_the_peak_is_remembered_until_it_is_reset():
    _core.reset_peak_memory("cpu")
    start = allocated()
    tensors = [bytes_of(MIB) for _ in range(3)]
    del tensors
    assert _core.memory_stats()["peak_allocated"] == start + 3 * MIB
    _core.reset_peak_memory("cpu")
    assert _core.memory_stats()["peak_allocated"] == start == allocated()


def test_beyond_the_limit_is_out_of_memory_and_nothing_is_lost():
    start = allocated()
    _core.set_memory_limit(start + 3 * MIB)
    assert _core.memory_stats()["limit"] == start + 3 * MIB
    tensors = [bytes_of(MIB) for _ in range(2)]
    with pytest.raises(OutOfMemoryError) as raised:
        bytes_of(2 * MIB)
    assert isinstance(raised.value, MemoryError) and isinstance(raised.value, LlmcoreError)
    sentence = str(raised.value)
    assert f"a request of {2 * MIB} bytes does not fit into the memory limit" in sentence
    assert f"{start + 2 * MIB} bytes in use" in sentence and f"limit {start + 3 * MIB}" in sentence
    assert "a smaller batch" in sentence
    assert allocated() == start + 2 * MIB
    tensors.append(bytes_of(MIB))  # what fits is still served
    _core.set_memory_limit(0)
    tensors.append(bytes_of(2 * MIB))
    del tensors
    assert allocated() == start


def test_out_of_memory_says_what_the_memory_is_for():
    assert _core.memory_stats()["by_label"] == {}
    weights, gradients = bytes_of(2 * MIB), bytes_of(MIB)
    weights.narrow(0, 5).label("weights")  # all of the block
    gradients.label("wrong")
    gradients.label("gradients")
    assert _core.memory_stats()["by_label"] == {"gradients": MIB, "weights": 2 * MIB}
    _core.set_memory_limit(allocated() + 1)
    with pytest.raises(OutOfMemoryError, match=r"in use: .*weights 2\.0 MiB, gradients 1\.0 MiB"):
        bytes_of(2 * MIB)
    _core.from_dlpack(np.zeros(3, np.float32)).label("memory of others is left alone")
    del weights, gradients
    assert _core.memory_stats()["by_label"] == {}


def test_an_op_that_runs_out_of_memory_leaves_nothing_behind():
    x = bytes_of(MIB)
    start = allocated()
    _core.set_memory_limit(start + 100)
    for _ in range(10):
        with pytest.raises(OutOfMemoryError):
            _core.add(x, x)
        with pytest.raises(OutOfMemoryError):
            _core.from_numpy(np.zeros(MIB))
    assert allocated() == start


def test_beyond_the_machine_is_out_of_memory():
    with pytest.raises(OutOfMemoryError, match="a request of 4503599627370496 bytes does not fit into this machine's"):
        _core.empty((1 << 50,))


def test_nothing_leaks_over_a_thousand_rounds():
    sizes = [1 << k for k in range(4, 17)]  # floats: every size class from 64 bytes to 256 KiB

    def one_round() -> None:
        tensors = [_core.from_numpy(np.ones(n, np.float32)) for n in sizes]
        _core.add(tensors[0], tensors[0]).view((-1,)).narrow(0, 1).numpy().sum()
        for tensor in tensors[:5]:
            tensor.cast(_core.DType.bfloat16).numpy().sum()

    one_round()
    start = _core.memory_stats()
    for _ in range(1000):
        one_round()
    end = _core.memory_stats()
    assert end["allocated"] == start["allocated"]
    assert end["reserved"] == start["reserved"]  # every round was served from the cache


def test_two_threads_at_once():
    start, wrong = allocated(), []

    def work(value: int) -> None:
        for _ in range(300):
            tensors = [_core.empty((n,)) for n in (10, 1000, 100_000)]
            for tensor in tensors:
                tensor.fill_(value)
            if any((tensor.numpy() != value).any() for tensor in tensors):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert allocated() == start
