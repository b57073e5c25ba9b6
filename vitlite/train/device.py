"""What a device is good for: its precision, and whether compiling pays there."""

from __future__ import annotations

import os
import warnings

import torch
from torch import Tensor, nn

__all__ = ["autocast_dtype", "compiling_pays", "default_device"]

COMPILE_STEPS = 2_000  # compiling takes about as long as some hundred steps save


def default_device() -> torch.device:
    """The device to train on if none is named: a CUDA device, one for each process of a machine; Apple's MPS; the CPU.

    MPS is for a process that is alone, since processes cannot exchange what lies there.

    Example:
        >>> default_device().type in ("cuda", "mps", "cpu")
        True
    """
    local_rank = os.environ.get("LOCAL_RANK")  # torchrun's number for this process on its machine
    if torch.cuda.is_available():
        return torch.device("cuda", int(local_rank or 0))
    return torch.device("mps" if local_rank is None and torch.backends.mps.is_available() else "cpu")


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The reduced precision in which this device gains time, or None.

    CUDA: bfloat16, or float16 where it has none (a T4). CPU: bfloat16 where there are instructions for it. Elsewhere,
    on Apple's MPS for one, float32: nobody has measured it yet.

    Example:
        >>> autocast_dtype(torch.device("mps")) is None
        True
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu":
        abilities = getattr(torch.cpu, "get_capabilities", dict)()
        return torch.bfloat16 if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else None
    return None


def compiling_pays(device: torch.device, steps: int) -> bool:
    """Whether ``torch.compile`` earns back its own time: on CUDA, in a run that is not short.

    On a CPU it gains less than a tenth at the sizes of this book and takes a minute.

    Example:
        >>> compiling_pays(torch.device("cuda"), 10_000), compiling_pays(torch.device("cpu"), 10_000)
        (True, False)
    """
    return device.type == "cuda" and steps >= COMPILE_STEPS


def compiled(learner: nn.Module, images: Tensor, targets: Tensor, dtype: torch.dtype | None) -> nn.Module:
    """The module compiled, or as it is where that does not work: no compiler, a device or a model it cannot handle.

    It is tried on a batch of the size, and in the precision, that training will have.
    """
    buffers = [buffer.clone() for buffer in learner.buffers()]  # a batch norm counts what it sees
    try:
        with warnings.catch_warnings(), torch.autocast(images.device.type, dtype, enabled=dtype is not None):
            warnings.simplefilter("ignore")
            faster = torch.compile(learner)
            faster(images, targets)[0].backward()
        return faster
    except Exception:  # whatever it is that the compiler lacks: training does not need it
        return learner
    finally:
        learner.zero_grad()
        for buffer, before in zip(learner.buffers(), buffers, strict=True):
            buffer.copy_(before)
