"""_core.CudaGraph: what is recorded, where its memory stays, and what cannot be captured. On the emulated device."""

from __future__ import annotations

import pytest

from tests.emu.programs import run

# Every tensor an allocation of its own, and blocks cut out of segments as on a GPU.
CACHES = pytest.mark.parametrize("cache", ["0", "1"])

SETUP = """
def cuda(values):
    return _core.from_numpy(np.asarray(values, np.float32), None, "cuda")

def copy_in(tensor, values):
    tensor.copy_(_core.from_numpy(np.asarray(values, np.float32)))

def stats():
    return _core.memory_stats("cuda")
"""


@CACHES
def test_a_replay_does_the_recorded_work_on_what_the_inputs_hold_then(cache):
    run(
        SETUP,
        """
    x, total, graph = cuda([1, 2, 3]), cuda([0, 0, 0]), _core.CudaGraph("cuda")
    with graph.capture():
        y = _core.mul(_core.add(x, x), x)  # the sum is freed inside, and its block may be used again there
        z = _core.scale(y, 10.0)
        _core.add_into(total, z)
    assert graph.device == "cuda:0"
    assert total.numpy().tolist() == [0, 0, 0]  # written down, not done
    for values, expected in (([1, 2, 3], [20, 80, 180]), ([2, 0, 1], [80, 0, 20])):
        copy_in(x, values)
        # what is allocated now must not lie where a replay writes
        other = [_core.zeros((3,), device="cuda") for _ in range(50)]
        graph.replay()
        assert z.numpy().tolist() == expected
        assert not any(each.numpy().any() for each in other)
    assert total.numpy().tolist() == [100, 80, 200]
    """,
        LLMCORE_MEMORY_CACHE=cache,
    )


@CACHES
def test_addresses_stay_until_the_graph_is_destroyed(cache):
    run(
        SETUP,
        """
    _core.synchronize("cuda")
    own = _core.emulator.leak_report()  # what the runtime holds as long as the process lives
    before, x = cuda(np.zeros(1000)), cuda(np.ones(1000))
    start = stats()
    graph = _core.CudaGraph("cuda")
    with graph.capture():
        y = _core.add(x, x)
        inside = y.data_ptr
        kept = before.data_ptr
        _core.add_into(before, y)
        del before  # recorded work still names it
    assert stats()["graphs"] >= 8000 and stats()["allocated"] == start["allocated"]
    del y
    gc.collect()
    assert stats()["graphs"] >= 8000
    others = [_core.zeros((1000,), device="cuda") for _ in range(20)]
    addresses = {other.data_ptr for other in others}
    assert inside not in addresses and kept not in addresses
    graph.replay()
    assert not any(other.numpy().any() for other in others)
    del others
    out = None
    second = _core.CudaGraph("cuda")
    with second.capture():
        out = _core.add(x, x)
    second.replay()
    del graph, second  # tensors outlive them
    gc.collect()
    assert stats()["graphs"] == 0 and out.numpy().tolist() == [2.0] * 1000
    del out, x
    _core.empty_cache("cuda")
    assert stats()["allocated"] == 0 and stats()["reserved"] == 0 and _core.emulator.leak_report() == own
    """,
        LLMCORE_MEMORY_CACHE=cache,
    )


def test_graphs_can_share_their_memory():
    run(
        SETUP,
        """
    x, graphs, outputs = cuda(np.ones(3 << 20)), [], []
    for number in range(3):
        graphs.append(_core.CudaGraph("cuda", shares=graphs[0] if graphs else None))
        with graphs[-1].capture():
            y = _core.scale(_core.add(x, x), float(number))
            outputs.append(_core.sum(y))
            del y
        if number == 0:
            first = stats()["graphs"]
    assert stats()["graphs"] == first  # 24 MiB of temporaries, once
    for graph in graphs:
        graph.replay()
    assert [output.item() for output in outputs] == [0, 2 * (3 << 20), 4 * (3 << 20)]
    with pytest.raises(ValueError, match="graphs that share memory must be on one device"):
        _core.CudaGraph("cuda:1", shares=graphs[0])
    """,
        LLMCORE_MEMORY_CACHE="1",
        LLMCORE_EMULATED_DEVICES="h100,h100",
    )


@CACHES
def test_what_needs_the_host_gives_the_capture_up_and_harms_nothing(cache):
    run(
        SETUP,
        """
    x, there = cuda([1, 2]), _core.zeros((2,), device="cuda:1")
    refused = [
        ("a copy to the CPU", lambda: x.numpy()),
        ("a copy to the CPU", lambda: _core.sum(x).item()),
        ("a copy from the CPU", lambda: copy_in(x, [5, 5])),
        ("a copy between devices", lambda: x.to("cuda:1")),
        ("a copy between devices", lambda: there.to("cuda:0")),
        (r"synchronize\\(\\)", lambda: _core.synchronize("cuda")),
        ("the replay of another graph", lambda: other.replay()),
    ]
    other = _core.CudaGraph("cuda")
    with other.capture():
        _core.add(x, x)
    start = stats()
    for what, act in refused:
        graph = _core.CudaGraph("cuda")
        with pytest.raises(RuntimeError, match=f"^{what} cannot be captured into a CUDA graph: it needs the host"):
            with graph.capture():
                y = _core.add(x, x)
                act()
        with pytest.raises(RuntimeError, match="nothing was captured, so there is nothing to replay"):
            graph.replay()
        graph = _core.CudaGraph("cuda")
        with pytest.raises(RuntimeError, match=f"the capture of a CUDA graph was given up: {what} cannot"):
            with graph.capture():
                try:
                    act()
                except RuntimeError:
                    pass
        del graph, y
        assert x.numpy().tolist() == [1, 2] and _core.add(x, x).numpy().tolist() == [2, 4]  # the device works on
    gc.collect()
    _core.empty_cache("cuda")
    assert stats()["allocated"] == start["allocated"] and stats()["graphs"] == start["graphs"]

    graph = _core.CudaGraph("cuda")
    with pytest.raises(KeyError):
        with graph.capture():
            raise KeyError("any error of the block")
    with graph.capture():  # the same graph, once more
        y = _core.add(x, x)
    graph.replay()
    assert y.numpy().tolist() == [2, 4]
    with pytest.raises(ValueError, match="this graph was captured already; make another"):
        with graph.capture():
            pass
    with _core.CudaGraph("cuda").capture():
        with pytest.raises(ValueError, match="a graph is being captured on cuda:0 already: one at a time"):
            _core.CudaGraph("cuda").capture().__enter__()
        with pytest.raises(ValueError, match="this thread is capturing a CUDA graph already"):
            _core.CudaGraph("cuda:1").capture().__enter__()
    with pytest.raises(ValueError, match='CudaGraph: the device must be "cuda", got "cpu"'):
        _core.CudaGraph("cpu")
    """,
        LLMCORE_MEMORY_CACHE=cache,
        LLMCORE_EMULATED_DEVICES="h100,a100",
    )


def test_other_threads_go_on_working():
    run(
        SETUP,
        """
    import threading
    x, found = cuda([1, 2]), []

    def work():
        y = _core.add(x, cuda([1, 1]))
        found.append((y.numpy().tolist(), y.data_ptr))
        _core.synchronize("cuda")

    graph = _core.CudaGraph("cuda")
    with graph.capture():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        z = _core.add(x, x)
    assert found[0][0] == [2, 3] and found[0][1] != z.data_ptr
    graph.replay()
    assert z.numpy().tolist() == [2, 4]
    """,
        LLMCORE_MEMORY_CACHE="1",
    )


def test_an_allocation_that_does_not_fit_ends_the_capture_without_harm():
    run(
        SETUP,
        """
    x = cuda([1, 2])
    _core.set_memory_limit(64 << 20, "cuda")
    with pytest.raises(OutOfMemoryError, match="belong to captured graphs"):
        with _core.CudaGraph("cuda").capture():
            held = [_core.empty((5 << 20,), device="cuda") for _ in range(10)]
    _core.set_memory_limit(0, "cuda")
    assert _core.add(x, x).numpy().tolist() == [2, 4] and stats()["graphs"] == 0
    """,
        LLMCORE_MEMORY_CACHE="1",
    )
