"""What a device is good for."""

import pytest
import torch

from vitlite.train import device as device_module


def test_reduced_precision_follows_the_device(monkeypatch):
    cpu = torch.device("cpu")
    for abilities, expected in (
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({}, None),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda a=abilities: a, raising=False)
        assert device_module.autocast_dtype(cpu) == expected
    for capability, expected in (((7, 5), torch.float16), ((8, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert device_module.autocast_dtype(torch.device("cuda")) == expected
    assert device_module.autocast_dtype(torch.device("mps")) is None


@pytest.mark.parametrize(
    ("cuda", "mps", "local_rank", "chosen"),
    [(False, False, None, "cpu"), (False, True, None, "mps"), (True, False, None, "cuda:0"),
     (True, True, "1", "cuda:1"), (False, True, "1", "cpu")],  # processes that talk through gloo
)
def test_the_fastest_device_that_is_there_is_chosen(cuda, mps, local_rank, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert str(device_module.default_device()) == chosen


def test_compiling_is_for_long_runs_on_cuda():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert device_module.compiling_pays(cuda, 10_000)
    assert not device_module.compiling_pays(cuda, 100)
    assert not device_module.compiling_pays(cpu, 10_000)
