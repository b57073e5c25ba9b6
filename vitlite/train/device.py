"""What a device is good for: its precision, whether compiling pays there, and what share of its peak a run reaches."""

from __future__ import annotations

import copy
import re
import warnings

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vitlite.config import Size, pair
from vitlite.model import ViT
from vitlite.train import distributed

__all__ = ["autocast_dtype", "compiling_pays", "default_device", "peak_flops", "train_flops"]

# Dense 16-bit matrix products with float32 sums, FLOP a second, from NVIDIA's data sheets (half of the figure that
# is given "with sparsity"). A device is found by the words of its name; the longer entry first.
PEAKS = {
    ("H200",): 989e12,
    ("H100", "PCIe"): 756e12,
    ("H100",): 989e12,
    ("A100",): 312e12,
    ("V100",): 125e12,
    ("L4",): 121e12,
    ("T4",): 65e12,
}
COMPILE_STEPS = 2_000  # compiling takes about as long as some hundred steps save


def default_device() -> torch.device:
    """The device to train on if none is named: a CUDA device, one for each process of a machine, or the CPU.

    Example:
        >>> default_device().type in ("cuda", "cpu")
        True
    """
    return torch.device("cuda", distributed.local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The reduced precision in which this device gains time, or None.

    CUDA: bfloat16, or float16 where it has none (a T4). CPU: bfloat16 where there are instructions for it.
    Elsewhere, on Apple's MPS for one, float32: nobody has measured it yet.

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

    Args:
        learner: From images and targets to the loss and the right answers.
        images: A batch to try it on, of the size that training will have.
        targets: Its targets.
        dtype: Reduced precision that training will compute in.
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


def peak_flops(device: torch.device) -> float | None:
    """FLOP a second that the device could do at most in 16 bits, by its data sheet; None if it is not listed.

    Example:
        >>> peak_flops(torch.device("cpu")) is None
        True
    """
    if device.type != "cuda":
        return None
    words = set(re.split(r"[\s-]+", torch.cuda.get_device_name(device)))
    return next((peak for name, peak in PEAKS.items() if words.issuperset(name)), None)


def train_flops(model: nn.Module, image_size: Size, in_channels: int = 3) -> int:
    """FLOPs (two a multiply-add) of forward and backward pass for one image, by torch's own counter.

    A ViT is counted with explicit attention, since the backward pass of the fused one computes some products twice.
    Nothing is computed and the model stays as it is: shapes are enough.

    Args:
        model: A model of images ``[B, C, H, W]``.
        image_size: Size of the images in pixels.
        in_channels: Their channels.

    Example:
        >>> from vitlite import ViTConfig
        >>> train_flops(ViT(ViTConfig(32, 4, 3, 10, embed_dim=64, depth=2, num_heads=4, mlp_dim=128)), 32)
        32838912
    """
    twin = copy.deepcopy(model).to("meta", torch.float32).train()
    images = torch.zeros(2, in_channels, *pair(image_size), device="meta")  # batch norm refuses a single image
    with FlopCounterMode(display=False) as counter:
        logits = twin(images, return_attention=True)[0] if isinstance(model, ViT) else twin(images)
        logits.sum().backward()
    return counter.get_total_flops() // 2
