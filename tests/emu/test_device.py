"""device="cuda" as Python sees it: memory, copies between devices, and the sentences of what cannot be."""

from __future__ import annotations

import pytest

from tests.emu.programs import run


def test_tensors_go_there_and_back():
    run("""
    for shape in ((), (0,), (3, 5)):
        for values in (np.random.default_rng(0).standard_normal(shape).astype(np.float32), np.ones(shape, np.int32)):
            there = _core.from_numpy(values, None, "cuda")
            assert there.device == "cuda:0" and there.shape == shape
            np.testing.assert_array_equal(there.numpy(), values)
            np.testing.assert_array_equal(there.to("cpu").numpy(), values)
            assert there.to("cuda:0").data_ptr == there.data_ptr
    half = _core.from_numpy(np.array([1.0, -2.5]), _core.DType.bfloat16).to("cuda")
    assert half.bf16_bits().tolist() == [0x3f80, 0xc020]
    assert _core.from_bf16_bits(half.bf16_bits(), "cuda").numpy().tolist() == [1.0, -2.5]
    assert _core.from_numpy(np.array([7]), None, "cuda").item() == 7
    assert _core.zeros((4,), device="cuda").numpy().tolist() == [0.0] * 4
    target = _core.zeros((2,), _core.DType.bfloat16, "cuda")
    target.copy_(_core.from_numpy(np.array([1.5, 3.0])))  # from the CPU, and another type
    assert target.numpy().tolist() == [1.5, 3.0]
    _core.synchronize("cuda")
    """)


def test_memory_is_accounted_for_and_limited():
    run("""
    _core.synchronize("cuda")
    own = _core.emulator.leak_report()  # what the runtime holds as long as the process lives
    first = _core.empty((1000,), device="cuda")
    stats = _core.memory_stats("cuda")
    assert stats["allocated"] == 4000 and stats["allocations"] == 1, stats
    assert _core.memory_stats("cpu")["allocated"] == 0
    _core.set_memory_limit(5000, "cuda")
    with pytest.raises(OutOfMemoryError, match="out of memory on cuda:0: a request of 2000 bytes does not fit into the "
                                               "memory limit of 5000 bytes. llmcore holds 4000 bytes there, 4000 bytes "
                                               "of it in use; most of it in blocks of 4000 bytes x 1. The largest "
                                               "request that would fit now: 1000 bytes; a smaller batch"):
        _core.empty((500,), device="cuda")
    _core.set_memory_limit(0, "cuda")
    with pytest.raises(OutOfMemoryError, match="into this device's memory of 80.0 GiB, 79.9 GiB of it free"):
        _core.empty((30 << 30,), device="cuda")
    assert "4000 bytes on device 0" in _core.emulator.leak_report()
    del first
    gc.collect()
    assert _core.emulator.leak_report() == own and _core.memory_stats("cuda")["allocated"] == 0
    assert _core.memory_stats("cuda")["peak_allocated"] == 4000
    """)


def test_an_op_and_its_tensors_are_on_one_device():
    run("""
    here, there = _core.zeros((2, 8)), _core.zeros((2, 8), device="cuda")
    with pytest.raises(ValueError, match=r"expected a tensor on cuda:0, got one on cpu: all tensors of an op must be "
                                         r"on one device; Tensor.to\\(device\\) copies"):
        _core.add(there, here)
    with pytest.raises(ValueError, match="expected a tensor on cpu, got one on cuda:0"):
        _core.add(here, there)
    """)


def test_ids_outside_a_table_are_reported_when_the_host_waits():
    run("""
    table, ids = _core.zeros((5, 8), device="cuda"), np.array([0, 4, -1, 5])
    there = _core.from_numpy(ids, None, "cuda")
    sentence = "embedding: ids has the id -1 at element 2, but the table has 5 rows"
    waits = [lambda y: y.numpy(), lambda y: y.to("cpu"), lambda y: _core.synchronize("cuda"),
             lambda y: _core.zeros((4, 8)).copy_(y)]
    for wait in waits:
        y = _core.embedding_forward(there, table)
        _core.embedding_forward(_core.from_numpy(ids[3:], None, "cuda"), table)  # the first one is reported
        with pytest.raises(IndexError, match=sentence):
            wait(y)
        wait(y)  # once
    with pytest.raises(ValueError, match="embedding: ids must be int32, got float32"):
        _core.embedding_forward(_core.zeros((4,), device="cuda"), table)
    """)


def test_several_devices():
    run(
        """
    assert _core.check_device("cuda") == "cuda:0" and _core.check_device("cuda:1") == "cuda:1"
    for name in ("cuda:2", "cuda:99999999999999999999"):
        with pytest.raises(ValueError, match=f'device "{name}" is not available: the last one is "cuda:1"'):
            _core.check_device(name)
    x = _core.from_numpy(np.arange(12.0).reshape(3, 4), None, "cuda:1")
    np.testing.assert_array_equal(_core.add(x, x).to("cuda:0").numpy(), 2 * x.numpy())
    assert "48 bytes on device 1" in _core.emulator.leak_report()
    """,
        LLMCORE_EMULATED_DEVICES="h100,a100",
    )


def test_no_device():
    run(
        """
    with pytest.raises(ValueError, match=r'device "cuda" is not available: no CUDA device was found \\(no CUDA-capable '
                                         r'device is detected\\); use device="cpu" or device="auto"$'):
        _core.empty((1,), device="cuda")
    """,
        LLMCORE_EMULATED_DEVICES="none",
    )


@pytest.mark.parametrize(
    ("devices", "arch", "sentence"),
    [
        ("h100", "80", None),
        ("h100", "90", None),
        ("a100", "80", None),
        ("a100", "90", "LLMCORE_ARCH=90: device Emulated A100 reaches only 80"),
        ("h100", "fast", "LLMCORE_ARCH must be 80 or 90, got fast"),
    ],
)
def test_arch_can_be_forced_down(devices, arch, sentence):
    attempt = 'x = _core.from_numpy(np.eye(3), None, "cuda"); assert _core.add(x, x).numpy()[1, 1] == 2'
    program = attempt if sentence is None else f"with pytest.raises(ValueError, match={sentence!r}):\n    {attempt}"
    run(program, LLMCORE_EMULATED_DEVICES=devices, LLMCORE_ARCH=arch)


MULTIPLY = """
    x = _core.from_numpy(np.eye(16), _core.DType.bfloat16, "cuda")
    _core.emulator.reset_statistics()
    assert _core.matmul(x, x, False, False).numpy()[3, 3] == 1
    assert (_core.emulator.statistics()["bulk_copies"] > 0) is {by_tma}
"""


def test_the_hopper_products_are_for_those_who_ask():
    run(MULTIPLY.format(by_tma=False), LLMCORE_EMULATED_DEVICES="h100", LLMCORE_MATMUL="")
    run(MULTIPLY.format(by_tma=False), LLMCORE_EMULATED_DEVICES="h100", LLMCORE_MATMUL="sm80")
    run(MULTIPLY.format(by_tma=True), LLMCORE_EMULATED_DEVICES="h100", LLMCORE_MATMUL="sm90")


def test_sums_in_any_order_are_for_those_who_ask():
    """The gradient of a weight over 2048 rows is a sum of 32 parts, whose order shows in the bits."""
    run(
        """
    import llmcore
    from tests.devices import schedules

    generator = np.random.default_rng(0)
    x, dy = (_core.from_numpy(generator.standard_normal((2048, 64)), _core.DType.bfloat16, "cuda") for _ in range(2))
    expected = dy.numpy().astype(np.float64).T @ x.numpy().astype(np.float64)

    def gradients():
        found = []
        for _ in schedules("cuda"):
            gradient = _core.zeros((64, 64), device="cuda")
            _core.matmul_add(gradient, dy, x, transpose_a=True)
            np.testing.assert_allclose(gradient.numpy(), expected, rtol=0, atol=1e-3)
            found.append(gradient.numpy().tobytes())
        return set(found)

    assert llmcore.are_deterministic_algorithms_enabled() and len(gradients()) == 1
    llmcore.use_deterministic_algorithms(False)
    assert not llmcore.are_deterministic_algorithms_enabled() and len(gradients()) > 1
    llmcore.use_deterministic_algorithms(mode=True)
    assert llmcore.are_deterministic_algorithms_enabled() and len(gradients()) == 1
    """,
        LLMCORE_EMULATED_DEVICES="h100",
        LLMCORE_MATMUL="sm90",
    )


@pytest.mark.parametrize(
    ("devices", "matmul", "sentence"),
    [
        ("a100", "sm90", "LLMCORE_MATMUL=sm90 needs compute capability 9.0: device Emulated A100 is used as 8.0"),
        ("h100", "fast", "LLMCORE_MATMUL must be sm80 or sm90, got fast"),
    ],
)
def test_a_choice_of_products_that_cannot_be(devices, matmul, sentence):
    program = f"with pytest.raises(ValueError, match={sentence!r}):\n    _core.empty((1,), device='cuda')"
    run(program, LLMCORE_EMULATED_DEVICES=devices, LLMCORE_MATMUL=matmul)
