"""Nothing is left behind: memory stays flat, and after an error too no hook and no open file remains."""

import contextlib
import gc
import os

import numpy as np
import pytest
import torch
from alone import alone
from PIL import Image

from vitlite import ViT, ViTConfig, analysis, data, explore, plots, weights
from vitlite.data import pictures
from vitlite.train import Recipe, Trainer, checkpoint, evaluate

pytestmark = [pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc"),
              pytest.mark.filterwarnings("ignore")]
CONFIG = ViTConfig(8, 4, 3, 10, embed_dim=16, depth=2, num_heads=2, mlp_dim=32, zero_head=False)
MEGABYTES = 8  # of noise: what an allocator keeps and gives back


def model():
    torch.manual_seed(0)
    return ViT(CONFIG).eval()


def memory() -> float:
    """What the process holds, in megabytes, once what nothing refers to is gone: figures refer to themselves."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@alone
def test_memory_stays_flat_over_the_steps_of_a_training(often):
    steps, held = often(150, 1000), {}

    def look(trainer, moment):
        if moment == "step" and trainer.step % 50 == 0:
            held[trainer.step] = memory()

    sets = data.load("scenes", train_images=64, held_out=16, image_size=8)
    Trainer(model(), Recipe("flat", steps=steps, batch_size=16, validate_every=50, average=0.9), device="cpu",
            callbacks=[look]).fit(sets)
    assert held[steps] - held[steps // 150 * 50] < MEGABYTES


def look_inside(net: ViT, images: torch.Tensor) -> None:
    """Every kind of analysis once."""
    with torch.no_grad():
        _, attention = net(images, return_attention=True)
    rollout = analysis.attention_rollout(attention)
    maps = analysis.token_map(rollout, (2, 2))
    analysis.class_attention(attention, (2, 2))
    analysis.mean_attention_distance(net.iter_attention(images), (2, 2), 4)
    analysis.attention_entropy(attention)
    analysis.gradient_rollout(net, images)
    analysis.localisation(maps, torch.ones(len(images), 8, 8, dtype=torch.bool))
    plots.overlays(images.clamp(0, 1), {"rollout": maps})
    explore.rollout_explorer(maps[:1, None].flatten(0, 1)[None], images[:1].clamp(0, 1))


def hooks(net: torch.nn.Module) -> int:
    return sum(len(each) for part in net.modules() for each in
               (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks))


@alone
def test_memory_stays_flat_over_analyses(often):
    net, images, held, count = model(), torch.rand(4, 3, 8, 8), [], often(24, 200)
    for _ in range(count):
        look_inside(net, images)
        held.append(memory())  # after each: figures that wait for the collector would stretch the heap
    assert held[-1] - held[count // 3] < MEGABYTES
    assert not hooks(net)


class Broken(torch.nn.Module):
    def forward(self, *_):
        raise OSError("broken")


def test_no_hook_and_no_mode_is_left_after_an_error():
    net = model()
    net.blocks[1].mlp = Broken()
    modes, grad = [part.training for part in net.modules()], torch.is_grad_enabled()
    sets = data.load("scenes", train_images=20, held_out=10, image_size=8)
    images = torch.rand(2, 3, 8, 8)
    for call in (lambda: net(images, return_attention=True), lambda: list(net.iter_attention(images)),
                 lambda: analysis.gradient_rollout(net, images),
                 lambda: analysis.attention_rollout(net.iter_attention(images)), lambda: evaluate(net, sets.test),
                 lambda: Trainer(net, Recipe("x", steps=2, batch_size=4), device="cpu").fit(sets)):
        with pytest.raises(OSError, match="broken"):
            call()
        assert not hooks(net)
        assert [part.training for part in net.modules()] == modes
        assert torch.is_grad_enabled() == grad
        assert not torch.is_autocast_enabled("cpu")


def open_files() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return found


def test_no_file_stays_open_whole_or_damaged(tmp_path):
    pixels, labels = np.zeros((40, 8, 8, 3), np.uint8), np.arange(40) % 2

    def cache(path):
        np.savez(path, train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels,
                 classes=np.array(["a", "b"]))

    kinds = {
        "m.safetensors": (lambda path: weights.save(model(), path), weights.load),
        "i.safetensors": (lambda path: weights.save(model(), path), weights.info),
        "w.pth": (lambda path: torch.save(model().state_dict(), path), weights.from_timm),
        "r.safetensors": (lambda path: checkpoint.save(path, {"run": {}}, model=model().state_dict()),
                          lambda path: checkpoint.load(path, {})),
        "c.npz": (cache, data.load),
        "p.png": (lambda path: Image.fromarray(pixels[0]).save(path), pictures.read),
        "p.tif": (lambda path: Image.fromarray(pixels[0]).save(path), pictures.read),
    }
    before = open_files()
    for name, (write, read) in kinds.items():
        path = tmp_path / name
        write(path)
        whole = path.read_bytes()
        for content in (whole, whole[: len(whole) // 2], whole[:40], b"", whole[:-9]):
            path.write_bytes(content)
            with contextlib.suppress(ValueError):
                read(path)
            assert open_files() <= before, (name, len(content))
