"""The memory of a device: best fit in segments, what out of memory says, and errors at every call. Emulated device."""

from __future__ import annotations

from tests.emu.programs import run

SETUP = """
MIB = 1 << 20
def block(size):
    return _core.empty((size // 4,), device="cuda")
def stats():
    return _core.memory_stats("cuda")
_core.synchronize("cuda")
OWN = _core.emulator.leak_report()  # what the runtime holds as long as the process lives
"""


def test_blocks_are_cut_out_of_segments_and_merge_again():
    run(
        SETUP,
        """
    small = [block(n) for n in (1, 4, 512, 516, MIB)]
    assert not any(each.data_ptr % 256 for each in small)
    assert stats()["allocated"] == 3 * 512 + 1024 + MIB and stats()["reserved"] == 2 * MIB  # one segment
    del small
    whole = [block(MIB), block(MIB)]  # the pieces have merged again
    assert stats()["reserved"] == 2 * MIB and stats()["allocated"] == 2 * MIB

    middling = [block(4 * MIB) for _ in range(5)]
    assert stats()["reserved"] == 22 * MIB  # one segment of 20 MiB for the five
    addresses = [each.data_ptr for each in middling]
    assert len(set(addresses)) == 5
    del middling[3], middling[1]
    gc.collect()
    again = block(3 * MIB), block(4 * MIB)
    assert stats()["reserved"] == 22 * MIB and {each.data_ptr for each in again} == {addresses[1], addresses[3]}
    del middling, again
    large = block(20 * MIB)  # neighbours merge in any order
    assert stats()["reserved"] == 22 * MIB and large.data_ptr == min(addresses)

    huge = block(31 * MIB)  # a segment of its own, in whole steps of 2 MiB
    assert stats()["reserved"] == (22 + 32) * MIB
    del huge
    best, rest = block(30 * MIB), block(2 * MIB)  # the smallest that fits; what is left of it serves the next
    assert rest.data_ptr == best.data_ptr + 30 * MIB and stats()["reserved"] == (22 + 32) * MIB
    del best, rest, large
    _core.empty_cache("cuda")
    assert stats()["reserved"] == stats()["allocated"] == 2 * MIB
    assert stats()["peak_allocated"] == 54 * MIB
    _core.reset_peak_memory("cuda")
    assert stats()["peak_allocated"] == 2 * MIB
    del whole
    _core.empty_cache("cuda")
    assert _core.emulator.leak_report() == OWN
    """,
        LLMCORE_MEMORY_CACHE="1",
    )


def test_random_allocations_never_overlap_and_nothing_is_lost():
    run(
        SETUP,
        """
    random = np.random.default_rng(0)
    live = []
    for turn in range(3000):
        if live and random.random() < 0.5:
            live.pop(random.integers(len(live)))
        else:
            live.append(block(4 * int(random.integers(1, MIB if turn % 3 else 3000))))
        if turn % 100 == 0:
            spans = sorted((each.data_ptr, each.data_ptr + each.nbytes) for each in live)
            assert all(end <= begin for (_, end), (begin, _) in zip(spans, spans[1:]))
            assert sum(end - begin for begin, end in spans) <= stats()["allocated"] <= stats()["reserved"]
    assert stats()["reserved"] < 1.5 * stats()["peak_allocated"]
    live.clear()
    gc.collect()
    assert stats()["allocated"] == 0
    _core.empty_cache("cuda")
    assert stats()["reserved"] == 0 and _core.emulator.leak_report() == OWN
    """,
        LLMCORE_MEMORY_CACHE="1",
    )


def test_cached_memory_is_given_back_before_a_request_fails():
    run(
        SETUP,
        """
    cached = [block(12 * MIB) for _ in range(4)]
    kept = block(4 * MIB)
    del cached
    assert stats()["reserved"] == 68 * MIB
    large = block(48 * MIB)  # 80 MiB in all: the four segments have to go
    assert stats()["reserved"] == 68 * MIB and stats()["allocated"] == 52 * MIB
    del large
    _core.set_memory_limit(40 * MIB, "cuda")
    assert block(16 * MIB).nbytes == 16 * MIB  # the limit is on what is reserved: the 48 MiB have gone
    assert stats()["reserved"] == 20 * MIB
    """,
        LLMCORE_MEMORY_CACHE="1",
        LLMCORE_EMULATED_DEVICES="h100:80",
    )


def test_out_of_memory_names_the_request_the_holders_and_what_fits():
    run(
        SETUP,
        """
    from llmcore import AdamW, tensor
    weight = tensor(np.zeros((1024, 1024)), requires_grad=True, device="cuda")
    optimizer = AdamW([("weight", weight)], 1e-3)
    assert stats()["by_label"] == {"gradients": 4 * MIB, "optimizer state": 8 * MIB, "weights": 4 * MIB}
    held = [block(20 * MIB) for _ in range(2)]
    with pytest.raises(OutOfMemoryError) as raised:
        block(30 * MIB)
    assert str(raised.value) == (
        "out of memory on cuda:0: a request of 31457280 bytes (30.0 MiB) does not fit into this device's memory of "
        "81.0 MiB, 20.9 MiB of it free. llmcore holds 60.0 MiB there, 56.0 MiB of it in use: not labelled 40.0 MiB, "
        "optimizer state 8.0 MiB, weights 4.0 MiB, gradients 4.0 MiB; most of it in blocks of 20.0 MiB x 2, 4.0 MiB x "
        "4. The largest request that would fit now: 20.9 MiB; a smaller batch, a shorter block_size or "
        "activation_checkpointing=True needs less")
    held.append(block(20 * MIB))  # as it says
    _core.set_memory_limit(90 * MIB, "cuda")
    with pytest.raises(OutOfMemoryError, match="fit now: 4.0 MiB"):  # what is left of a segment
        block(5 * MIB)
    assert stats()["allocated"] == 76 * MIB
    del optimizer, weight, held
    gc.collect()
    assert stats()["by_label"] == {} and stats()["allocated"] == 0
    """,
        LLMCORE_MEMORY_CACHE="1",
        LLMCORE_EMULATED_DEVICES="h100:81",
    )


def test_an_error_at_any_call_is_reported_once_and_leaves_nothing_behind():
    run(
        SETUP,
        """
    OUT_OF_MEMORY, INVALID = 2, 1

    def work():
        x = _core.from_numpy(np.ones(1000, np.float32), None, "cuda")
        graph = _core.CudaGraph("cuda")
        begin, end = _core.Event("cuda"), _core.Event("cuda")
        begin.record()
        with graph.capture():
            y = _core.add(x, x)
        graph.replay()
        end.record()
        assert end.seconds_since(begin) >= 0
        _core.from_dlpack(y.__dlpack__())
        return _core.add(y, _core.zeros((1000,), device="cuda")).numpy()

    assert (work() == 2).all()  # what is made at first use
    for error, sentence in ((INVALID, "cudaErrorInvalidValue, invalid argument"), (OUT_OF_MEMORY, "out of memory")):
        failures = 0
        for call in range(60):
            _core.emulator.inject_error(error, call)
            try:
                assert (work() == 2).all()
            except (RuntimeError, MemoryError) as problem:
                failures += 1
                assert sentence in str(problem), problem
            finally:
                _core.emulator.inject_error(0)
            gc.collect()
            assert stats()["allocated"] == 0 and stats()["graphs"] == 0, call
        assert 15 < failures < 50, failures  # more calls than the work makes
    assert (work() == 2).all()
    _core.empty_cache("cuda")
    assert _core.emulator.leak_report() == OWN
    """,
        LLMCORE_MEMORY_CACHE="1",
    )


def test_what_a_kernel_left_behind_says_that_the_device_is_lost():
    run(
        SETUP,
        """
    x = block(64)
    x.fill_(1.0)
    _core.emulator.inject_error(700, 1)  # after the allocation of the sum
    lost = (r"^elementwise: kernel with grid \\(1, 1, 1\\), block \\(\\d+, 1, 1\\), 0 bytes of shared memory on "
            r"cuda:0: cudaErrorIllegalAddress, an illegal memory access was encountered. A kernel that was started "
            r"before left this error .* start the process again$")
    with pytest.raises(RuntimeError, match=lost):
        _core.add(x, x)
    for act in (lambda: _core.synchronize("cuda"), lambda: x.numpy(), lambda: _core.zeros((4,), device="cuda")):
        with pytest.raises(RuntimeError, match="on cuda:0: cudaErrorIllegalAddress.* every further call will fail"):
            act()
    """,
    )


def test_events_take_the_device_s_time():
    run(
        SETUP,
        """
    for device in ("cuda", "cpu"):
        begin, end = _core.Event(device), _core.Event(device)
        with pytest.raises(ValueError, match="Event: it was not recorded, so it will never happen"):
            begin.synchronize()
        begin.record()
        x = _core.zeros((1000,), device=device)
        _core.add(x, x)
        with pytest.raises(ValueError, match="Event: it was not recorded"):
            end.seconds_since(begin)
        end.record()
        end.synchronize()
        assert 0 < end.seconds_since(begin) < 100
        with pytest.raises(ValueError, match="Event: the first moment was not recorded"):
            end.seconds_since(_core.Event(device))
    with pytest.raises(ValueError, match="Event: moments of cuda:0 and cpu cannot be compared"):
        other = _core.Event("cuda")
        other.record()
        end.seconds_since(other)
    with pytest.raises(RuntimeError, match="^an event cannot be captured"):
        with _core.CudaGraph("cuda").capture():
            other.record()
    """,
    )


def test_a_recording_holds_the_device_s_times():
    run(
        SETUP,
        """
    from llmcore.profiling.recorder import record
    x, y = block(4000), _core.zeros((1000,))
    with record() as recording:
        _core.add(x, x)
        _core.Event("cuda").record()
        _core.add(y, y)
    names = [call.op for call in recording.calls]
    assert names == ["add", "add"] and all(0 < call.seconds < 10 for call in recording.calls)

    class Slow:  # a clock of which the device's share is known
        def __init__(self, device): pass
        def record(self): pass
        def seconds_since(self, begin): return 42.0

    real, _core.Event = _core.Event, Slow
    with record() as recording:
        _core.add(x, x)
        _core.add(y, y)
    _core.Event = real
    assert recording.calls[0].seconds == 42 and recording.calls[1].seconds < 10
    """,
    )
