"""More than one process, as ``torchrun`` starts them: who this one is, and the little they do together.

Each process holds the whole data set and draws the same random numbers for the whole batch; then it takes its part.
Started without ``torchrun`` there is one process, and nothing here does anything.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["World", "joined", "world"]

PATIENCE = datetime.timedelta(minutes=5)  # how long a process waits for one that is silent


class World(NamedTuple):
    """This process's number and how many there are.

    Example:
        >>> World(rank=1, size=2).size
        2
    """

    rank: int
    size: int


def world() -> World:
    """Which process this is, of how many.

    Example:
        >>> world()
        World(rank=0, size=1)
    """
    return World(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else World(0, 1)


@contextlib.contextmanager
def joined(device: torch.device, patience: datetime.timedelta = PATIENCE) -> Iterator[World]:
    """Join the other processes that ``torchrun`` started for the length of a ``with`` block.

    Args:
        device: Where this process computes; CUDA devices talk through NCCL, all else through gloo.

    Example:
        >>> with joined(torch.device("cpu")) as world:  # outside torchrun
        ...     world.size
        1
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield world()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
    try:
        yield world()
    finally:
        dist.destroy_process_group()


def shared(module: nn.Module) -> nn.Module:
    """The module with its gradients averaged over all processes; alone, the module itself."""
    return DistributedDataParallel(module) if world().size > 1 else module


def sum_over_all(*values: Tensor) -> Tensor:
    """The sum over all processes of each value, float32 ``[len(values)]``."""
    sums = torch.stack([value.float() for value in values])
    if world().size > 1:
        dist.all_reduce(sums)
    return sums


def exchanging(module: nn.Module, now: bool) -> contextlib.AbstractContextManager:
    """Whether the backward pass within exchanges gradients, or leaves that to a later piece of the batch."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) and not now else contextlib.nullcontext()


def agree(step: int, device: torch.device) -> None:
    """See that all processes are at the same step."""
    size = world().size
    if size > 1 and sum_over_all(torch.tensor(step, device=device)).item() != step * size:
        raise RuntimeError(f"process {world().rank} of {size} resumes at step {step}, others elsewhere: the checkpoint "
                           "must lie where all processes see it; or remove it to start afresh")
