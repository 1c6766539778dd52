"""The safetensors reader and writer of checkpoints, against the safetensors package."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmcore.errors import CheckpointError
from llmcore.tensor_file import file_size, parse_header, read_hashed_tensors, read_tensors, write_tensors


def sample_tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "weight": random.standard_normal((3, 5)).astype(np.float32),
        "half": random.integers(0, 2**15, (4, 2)).astype(np.uint16),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 7), np.float32),
        "ids": np.arange(-3, 3, dtype=np.int32),
        "transposed": random.standard_normal((4, 6)).astype(np.float32).T,
    }


def test_round_trip(tmp_path):
    tensors = sample_tensors()
    file, entries = write_tensors(tmp_path / "a.safetensors", tensors)
    assert file["size"] == (tmp_path / "a.safetensors").stat().st_size == file_size(tensors)
    read, digest = read_hashed_tensors(tmp_path / "a.safetensors", {entry["name"]: entry["crc32"] for entry in entries})
    assert digest == file["sha256"] == read_hashed_tensors(tmp_path / "a.safetensors")[1]
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and read[name].shape == tensor.shape
        np.testing.assert_array_equal(read[name], tensor)


def test_safetensors_package_reads_what_we_write(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors import safe_open

    tensors = sample_tensors()
    write_tensors(tmp_path / "a.safetensors", tensors)
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_tensor("half").dtype == torch.bfloat16
        np.testing.assert_array_equal(
            file.get_tensor("half").view(torch.int16).numpy().view(np.uint16), tensors["half"]
        )
        np.testing.assert_array_equal(file.get_tensor("transposed").numpy(), tensors["transposed"])


def test_we_read_what_the_safetensors_package_writes(tmp_path):
    from safetensors.numpy import save_file

    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in sample_tensors().items() if name != "half"}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"who": "them"})
    read = read_tensors(tmp_path / "a.safetensors")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor)


def test_altered_tensor_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    _, entries = write_tensors(path, sample_tensors())
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="'weight' is altered"):
        read_hashed_tensors(path, {entry["name"]: entry["crc32"] for entry in entries})


def test_dtype_that_the_format_lacks_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="'x' has dtype complex64"):
        write_tensors(tmp_path / "a.safetensors", {"x": np.zeros(2, np.complex64)})


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "header, size, message",
    [
        (b"{", 8, "not JSON"),
        (b"\xff", 8, "not JSON"),
        (b"[" * 100_000, 8, "not JSON"),
        (b"[]", 0, "not a JSON object"),
        (b'{"a":{},"a":{}}', 0, "a name twice"),
        (json.dumps({"a": entry(dtype="F31")}).encode(), 8, "malformed"),
        (json.dumps({"a": entry(shape=(-2,))}).encode(), 8, "malformed"),
        (json.dumps({"a": entry(shape=(True, 2))}).encode(), 8, "malformed"),
        (json.dumps({"a": entry(shape=(1 << 62, 1 << 62))}).encode(), 8, "contradict"),
        (json.dumps({"a": entry(), "b": entry()}).encode(), 8, "overlap"),
        (json.dumps({"a": entry(), "b": entry(offsets=(12, 20))}).encode(), 20, "gaps"),
        (json.dumps({"a": entry()}).encode(), 9, "the file holds 9"),
    ],
)
def test_malformed_headers_are_refused(header, size, message):
    with pytest.raises(CheckpointError, match=message):
        parse_header(header, size, "a.safetensors")


def test_lying_header_length_is_refused_before_allocation(tmp_path):
    (tmp_path / "a.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="the header claims"):
        read_tensors(tmp_path / "a.safetensors")
