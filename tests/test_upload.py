"""Stored weights on their way to a device."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file

from llama_exp.model import upload
from llama_exp.model.upload import Upload, Uploaded, stored

CPU = torch.device("cpu")


@pytest.fixture
def small_buffers(monkeypatch):
    monkeypatch.setattr(upload, "SIZE", 1000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1,), (250,), (3, 333), (7, 1001)])
def test_a_tensor_arrives_whole_whatever_pieces_it_is_cut_into(small_buffers, dtype, shape):
    copy = Upload(CPU)
    for seed in range(3):  # the buffers are used again
        tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        found = copy(tensor)
        assert torch.equal(found, tensor) and found.dtype == dtype and found.data_ptr() != tensor.data_ptr()


def test_several_threads_share_the_buffers(small_buffers):
    copy = Upload(CPU)
    tensors = [torch.full((977,), float(number)) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert all(map(torch.equal, pool.map(copy, tensors), tensors))
    assert copy(torch.empty(0, 4)).shape == (0, 4)


def test_slices_are_read_where_they_are_wanted(small_buffers, tmp_path):
    weights = {"a": torch.randn(40, 30), "b": torch.randn(9).half()}
    files = [tmp_path / f"{name}.safetensors" for name in weights]
    for name, file in zip(weights, files, strict=True):
        save_file({name: weights[name]}, file)
    with stored(files, CPU) as found:
        assert {name: found[name].get_shape() for name in found} == {"a": [40, 30], "b": [9]}
        for name, part in found.items():
            assert torch.equal(part[...], weights[name])
        uploaded = Uploaded(found["a"], Upload(CPU))
        assert torch.equal(uploaded[...], weights["a"]) and torch.equal(uploaded[:, 2:5], weights["a"][:, 2:5])
        assert uploaded.get_shape() == [40, 30] and uploaded.get_dtype() == "F32"
