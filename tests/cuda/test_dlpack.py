"""Arrays in and out without a copy on device="cuda": pointers, streams and lifetimes, on the emulated device."""

from __future__ import annotations

from tests.emu.programs import run

# The other side is ctypes and an array of our own making: no library here has a CUDA device.
SETUP = """
import ctypes

class Array(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("type", ctypes.c_int32), ("index", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]

class Versioned(ctypes.Structure):
    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
                ("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("array", Array)]

def look_into(capsule, name, structure):
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return structure.from_address(get(capsule, name))

def stats():
    return _core.memory_stats("cuda:1")

class Theirs:
    "Another library's array: our tensor, with the stream that it is asked for written down."
    asked = []
    def __init__(self, tensor):
        self.tensor = tensor
    def __dlpack__(self, *, stream, max_version):
        self.asked.append((stream, max_version))
        return self.tensor.__dlpack__(stream=-1, max_version=max_version)
    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()
"""


def test_pointers_shapes_and_device():
    run(
        SETUP,
        """
    x = _core.from_numpy(np.arange(24.0).reshape(4, 2, 3), None, "cuda:1").narrow(1, 2)
    assert x.__dlpack_device__() == (2, 1)
    for dtype, expected in (("float32", (2, 32, 1)), ("bfloat16", (4, 16, 1)), ("int32", (0, 32, 1))):
        tensor = x.cast(getattr(_core.DType, dtype))
        old, new = tensor.__dlpack__(), tensor.__dlpack__(max_version=(1, 0))
        whole = look_into(new, b"dltensor_versioned", Versioned)
        assert (whole.major, whole.flags) == (1, 0)
        for array in (whole.array, look_into(old, b"dltensor", Array)):
            assert (array.type, array.index, array.ndim, array.byte_offset) == (2, 1, 3, 0)
            assert (array.code, array.bits, array.lanes) == expected and array.data == tensor.data_ptr
    capsule = x.__dlpack__()
    array = look_into(capsule, b"dltensor", Array)
    assert array.data == x.data_ptr
    assert array.shape[:3] == [2, 2, 3] and array.strides[:3] == [6, 3, 1]

    here = _core.from_dlpack(x.__dlpack__(dl_device=(1, 0)))  # a copy on the CPU, for those who ask
    assert here.device == "cpu" and here.numpy().tolist() == x.numpy().tolist()
    with pytest.raises(BufferError, match="the tensor is on cuda:1, and another device than the CPU, or any without"):
        x.__dlpack__(dl_device=(1, 0), copy=False)

    y = _core.from_dlpack(Theirs(x))
    assert y.device == "cuda:1" and y.data_ptr == x.data_ptr and y.shape == (2, 2, 3)
    np.testing.assert_array_equal(_core.add(y, y).numpy(), 2 * x.numpy())  # a kernel on their memory
    stream = x.__cuda_array_interface__["stream"]
    assert Theirs.asked == [(stream, (1, 1))] and stream > 2

    assert x.__cuda_array_interface__ == dict(shape=(2, 2, 3), typestr="<f4", data=(x.data_ptr, False), version=3,
                                              strides=None, stream=stream)
    assert _core.empty((0, 3), _core.DType.int32, "cuda").__cuda_array_interface__["data"] == (0, False)
    assert not hasattr(x.cast(_core.DType.bfloat16), "__cuda_array_interface__")
    """,
        LLMCORE_EMULATED_DEVICES="h100,h100",
    )


def test_streams_wait_for_each_other():
    run(
        SETUP,
        """
    x = _core.zeros((4,), device="cuda:1")
    ours = x.__cuda_array_interface__["stream"]
    waits = _core.emulator.stream_waits
    start = len(waits())
    for stream, expected in ((None, 1), (1, 1), (2, 2), (77777, 77777), (-1, None)):
        before = len(waits())
        capsule = x.__dlpack__(stream=stream)
        assert waits()[before:] == ([] if expected is None else [(expected, ours)])  # theirs waits for ours
        before = len(waits())
        del capsule
        assert waits()[before:] == ([] if expected is None else [(ours, expected)])  # ours for theirs, at the end
    with pytest.raises(BufferError, match="stream must be None, -1, 1, 2 or a CUDA stream's address, not 0"):
        x.__dlpack__(stream=0)
    graph = _core.CudaGraph("cuda:1")
    with pytest.raises(RuntimeError, match="handing a tensor to another library cannot be captured"):
        with graph.capture():
            x.__dlpack__()
    """,
        LLMCORE_EMULATED_DEVICES="h100,h100",
    )


def test_either_side_may_live_longer():
    run(
        SETUP,
        """
    start = stats()["allocated"]
    x = _core.from_numpy(np.full(1000, 3.0), None, "cuda:1")
    capsule = x.__dlpack__(max_version=(1, 0))
    del x
    gc.collect()
    assert stats()["allocated"] == start + 4096
    y = _core.from_dlpack(capsule)
    del capsule
    gc.collect()
    view = y.narrow(1, 2)
    del y
    assert view.numpy().tolist() == [3, 3] and stats()["allocated"] == start + 4096
    del view
    gc.collect()
    assert stats()["allocated"] == start

    producer = Theirs(_core.from_numpy(np.full(10, 3.0), None, "cuda:1"))
    y = _core.from_dlpack(producer)
    del producer
    gc.collect()
    assert y.numpy()[9] == 3 and stats()["allocated"] > start
    del y
    gc.collect()
    assert stats()["allocated"] == start
    """,
        LLMCORE_EMULATED_DEVICES="h100,h100",
        LLMCORE_MEMORY_CACHE="1",
    )
