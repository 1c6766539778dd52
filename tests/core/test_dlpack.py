"""Arrays in and out without a copy, on the CPU, with PyTorch and NumPy on the other side (CUDA: tests/cuda)."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

import llmcore
from llmcore import _core
from tests.cases import BFLOAT16, FLOAT32

INT32 = _core.DType.int32
TORCH = {FLOAT32: torch.float32, BFLOAT16: torch.bfloat16, INT32: torch.int32}


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (3, 1, 2), (0, 3)])
@pytest.mark.parametrize("dtype", TORCH, ids=lambda dtype: dtype.name)
def test_torch_and_we_see_the_same_memory(dtype, shape):
    values = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    ours = _core.from_numpy(values, dtype)
    theirs = torch.from_dlpack(ours)
    assert theirs.dtype == TORCH[dtype] and tuple(theirs.shape) == shape and theirs.device.type == "cpu"
    assert theirs.is_contiguous() and (theirs.numel() == 0 or theirs.data_ptr() == ours.data_ptr)
    np.testing.assert_array_equal(theirs.float().numpy(), values)
    theirs += 1
    np.testing.assert_array_equal(ours.numpy(), values + 1)

    again = _core.from_dlpack(theirs)
    assert again.dtype == dtype and again.shape == shape
    assert theirs.numel() == 0 or again.data_ptr == ours.data_ptr
    again.fill_(7.0)
    assert (theirs == 7).all() and (ours.numpy() == 7).all()
    np.testing.assert_array_equal(_core.add(again, again).numpy() if dtype != INT32 else 14, np.full(shape, 14))


def test_numpy_and_we_see_the_same_memory():
    for values in (np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4, dtype=np.int32)):
        ours = _core.from_dlpack(values)
        assert ours.data_ptr == values.ctypes.data and ours.shape == values.shape
        back = np.from_dlpack(ours)
        assert back.dtype == values.dtype and back.ctypes.data == values.ctypes.data
        values[...] = 9
        assert (ours.numpy() == 9).all() and (back == 9).all()


def test_tensors_with_a_tape_share_their_numbers():
    x = llmcore.from_dlpack(torch.ones(2, 3))
    assert isinstance(x, llmcore.Tensor) and not x.requires_grad and x.shape == (2, 3)
    assert x.__dlpack_device__() == (1, 0)
    y = torch.from_dlpack(x * 2.0)
    assert y.tolist() == [[2.0] * 3] * 2
    with pytest.raises(AttributeError, match="__cuda_array_interface__: the tensor is on the CPU"):
        x.__cuda_array_interface__  # noqa: B018
    assert not hasattr(x.data, "__cuda_array_interface__")


def test_a_part_of_a_tensor_begins_where_it_begins():
    whole = _core.from_numpy(np.arange(12, dtype=np.float32).reshape(4, 3))
    assert torch.from_dlpack(whole.narrow(1, 2)).tolist() == [[3, 4, 5], [6, 7, 8]]
    assert _core.from_dlpack(torch.arange(6, dtype=torch.float32)[2:]).numpy().tolist() == [2, 3, 4, 5]


def test_the_consumer_may_outlive_the_producer():
    start = _core.memory_stats()["allocated"]
    ours = _core.from_numpy(np.full(1000, 3.0))
    theirs = torch.from_dlpack(ours)
    part = theirs[10:20]
    del ours, theirs
    gc.collect()
    for _ in range(10):  # would be handed the freed block
        _core.empty((1000,)).fill_(-1.0)
    assert (part == 3).all() and _core.memory_stats()["allocated"] == start + 4096
    del part
    gc.collect()
    assert _core.memory_stats()["allocated"] == start


def test_the_producer_s_memory_lives_as_long_as_we_need_it():
    values = np.full(1000, 3.0, np.float32)
    alive = weakref.ref(values)
    view = _core.from_dlpack(values).view((10, 100)).narrow(2, 3)
    del values
    gc.collect()
    assert alive() is not None and (view.numpy() == 3).all()
    array = view.numpy()  # and so on: NumPy -> us -> NumPy
    del view
    gc.collect()
    assert alive() is not None and (array == 3).all()
    del array
    gc.collect()
    assert alive() is None


def test_capsules_that_nobody_takes_are_freed():
    start = _core.memory_stats()["allocated"]
    tensor = _core.zeros((1000,))
    capsules = [tensor.__dlpack__(), tensor.__dlpack__(max_version=(1, 0)), tensor.__dlpack__(copy=True)]
    assert ["versioned" in repr(capsule) for capsule in capsules] == [False, True, False]
    del tensor
    assert _core.memory_stats()["allocated"] == start + 2 * 4096
    taken = _core.from_dlpack(capsules[1])
    with pytest.raises(ValueError, match="this is no DLPack capsule, or one that was used already"):
        _core.from_dlpack(capsules[1])
    del capsules, taken
    gc.collect()
    assert _core.memory_stats()["allocated"] == start


def test_the_protocol_s_arguments():
    tensor = _core.from_numpy(np.arange(3.0))
    copy = torch.from_dlpack(tensor.__dlpack__(copy=True, max_version=(1, 1), dl_device=(1, 0)))
    copy += 1
    assert tensor.numpy().tolist() == [0, 1, 2] and copy.tolist() == [1, 2, 3]
    assert _core.from_dlpack(tensor.__dlpack__(copy=False, stream=-1)).data_ptr == tensor.data_ptr
    with pytest.raises(BufferError, match="a tensor on the CPU has no stream"):
        tensor.__dlpack__(stream=1)
    with pytest.raises(BufferError, match="another device than the CPU"):
        tensor.__dlpack__(dl_device=(2, 0))

    class Old:
        """A producer from before version 1."""

        __dlpack_device__ = tensor.__dlpack_device__

        def __dlpack__(self, stream=None):
            return tensor.__dlpack__(stream=stream)

    assert _core.from_dlpack(Old()).data_ptr == tensor.data_ptr


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (torch.zeros(2, dtype=torch.int64), "the array holds int64; memory is shared for float32, bfloat16 and int32"),
        (torch.zeros(2, dtype=torch.float16), "the array holds float16;"),
        (torch.zeros(2, dtype=torch.bool), "the array holds bool;"),
        (torch.zeros(2, 3).T, r"shape \(3, 2\) must lie in memory in row-major order without gaps"),
        (torch.zeros(4)[::2], "without gaps; make it contiguous first"),
        (np.frombuffer(b"12345678", np.float32), "the array is read-only|readonly"),
        (np.frombuffer(bytearray(9), np.uint8)[1:].view(np.float32), "not aligned to its elements"),
    ],
)
def test_what_cannot_be_shared_is_refused(array, sentence):
    with pytest.raises((ValueError, BufferError), match=sentence):
        _core.from_dlpack(array)


def test_what_is_no_array_is_refused():
    with pytest.raises(TypeError, match="from_dlpack: expected an array with __dlpack__, got list"):
        _core.from_dlpack([1, 2])

    class Elsewhere:
        def __dlpack__(self, **options):
            raise AssertionError

        def __dlpack_device__(self):
            return (8, 0)  # Metal

    with pytest.raises(ValueError, match=r"on a device of DLPack's type 8; llmcore has the CPU \(1\) and CUDA \(2\)"):
        _core.from_dlpack(Elsewhere())


def test_nothing_leaks_over_many_rounds():
    tensor, other = _core.zeros((100,)), torch.zeros(100)
    start = _core.memory_stats()["allocated"]
    for _ in range(1000):
        torch.from_dlpack(tensor)
        _core.from_dlpack(other).numpy()
        np.from_dlpack(tensor)
    assert _core.memory_stats()["allocated"] == start
