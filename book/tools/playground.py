"""Turn checkpoints and test scenes into the script files that the playground loads, and draw its still picture.

A page that is opened from the disk may load scripts but read no other files. So each network becomes a script: its
weights as float16 in base64. Another network is one more entry in ``NETWORKS``.

Why no library runs the network: onnxruntime-web 1.30 starts from the disk only if its loader comes as a blob and its
WebAssembly, 14 MB, inside a script (19 MB in base64). Its WebGL build has 0.5 MB, but no Expand, LayerNormalization or
GELU. Neither gives attention maps unless the exported graph does.
"""

import base64
import html
import json
import re
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from vitlite import ViT, analysis, weights
from vitlite.data import augment, scenes
from vitlite.data.datasets import SCENES_START

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINTS = ROOT / "data/checkpoints"
NETWORKS = {  # the checkpoint, and what the page calls the network; the first is the one that is looked into
    "bias_vit": "ViT",
    "bias_resnet": "ResNet",
    "bias_unplaced": "ViT without positions",
}
SCENES = 40  # the first so many test scenes
STILL = 24  # the scene of the still picture, the first in the page too
ALONE = """<!doctype html>
<html lang="en" data-theme="light">
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Playground</title>
<style>html[data-theme="dark"] {{ background: #14181e; color: #ced6dd }} body {{ font-family: sans-serif }}</style>
<body>{body}</body>
</html>"""


def write(folder: Path) -> None:
    """Write everything that is generated into a folder: one script per network, the scenes, the still picture."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: read(CHECKPOINTS / f"{name}.safetensors") for name in NETWORKS}
    for name, (model, file) in files.items():
        tensors = {key: tensor for key, tensor in model.state_dict().items() if tensor.is_floating_point()}
        numbers = np.concatenate([tensor.numpy().ravel() for tensor in tensors.values()]).astype(np.float16)
        file["tensors"] = [[key, tensor.numel()] for key, tensor in tensors.items()]
        script(folder / f"{name}.js", f"weights.{name}", file | {"bytes": packed(numbers)})
    listed = [{"name": name, "label": label} for name, label in NETWORKS.items()]
    images, labels = test_scenes()
    viridis = np.rint(255 * matplotlib.colormaps["viridis"](np.arange(256))[:, :3]).astype(np.uint8)
    script(folder / "scenes.js", "scenes", {"networks": listed, "classes": scenes.CLASSES, "labels": labels.tolist(),
                                            "bytes": packed(images.permute(0, 2, 3, 1).numpy()),
                                            "palette": packed(viridis)})
    (folder / "still.html").write_text(still(folder / "still.png", *files[next(iter(NETWORKS))]),
                                       encoding="utf-8")


def alone(folder: Path) -> Path:
    """Make a page that holds the playground and nothing else, for tests and benchmarks, and return its path.

    Args:
        folder: Where to; what ``write`` made is used if it lies in ``_static/playground`` already.
    """
    static = folder / "_static/playground"
    if not static.exists():
        write(static)
    shutil.copytree(ROOT / "book/_static/playground", static, dirs_exist_ok=True)
    text = (ROOT / "book/playground.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\{raw\} html\n(.*?)```", text, re.DOTALL)
    still_picture = (static / "still.html").read_text(encoding="utf-8")
    body = "".join(still_picture if block.startswith(":file:") else block for block in blocks)
    page = folder / "book/playground.html"
    page.parent.mkdir()
    page.write_text(ALONE.format(body=body), encoding="utf-8")
    return page


def read(path: Path) -> tuple[torch.nn.Module, dict]:
    """A network with its weights rounded to float16, and what the page must know of it."""
    model, info = weights.load(path), weights.info(path)
    model.load_state_dict({name: tensor.half().to(tensor.dtype) if tensor.is_floating_point() else tensor
                           for name, tensor in model.state_dict().items()})
    told = {"kind": info["model"], "config": vars(info["config"]), "mean": info["mean"], "std": info["std"],
            "parameters": info["parameters"]}
    return model, told


def test_scenes() -> tuple[torch.Tensor, torch.Tensor]:
    """The test scenes of the page: images uint8 ``[N, 3, 32, 32]`` and labels."""
    images, labels, _ = scenes.render(SCENES_START["test"] + np.arange(SCENES))
    return torch.from_numpy(images), torch.from_numpy(labels)


def packed(array: np.ndarray) -> str:
    """The bytes of an array as base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def script(path: Path, name: str, value: dict) -> None:
    """Write a script that puts a value into the page's one global object."""
    path.write_text("var playground = globalThis.playground ?? {};\nplayground.weights ??= {};\n"
                    f"playground.{name} = {json.dumps(value, separators=(',', ':'))};\n", encoding="utf-8")


def still(path: Path, model: ViT, file: dict) -> str:
    """Draw what the page shows first, for a reader without JavaScript, and return it as HTML with its text."""
    images, labels = test_scenes()
    image, label = images[STILL : STILL + 1], scenes.CLASSES[labels[STILL]]
    with torch.inference_mode():
        logits, attention = model(augment.normalise(image, file["mean"], file["std"]), return_attention=True)
    shares = logits[0].softmax(0)
    grid = model.config.grid
    looks = analysis.class_attention(attention[-1:], grid, per_head=True)[0, 0]
    answer, share = scenes.CLASSES[shares.argmax()], f"{shares.max().item():.0%}"
    figure = Figure(figsize=(9, 1.9), layout="constrained")
    axes = figure.subplots(1, 2 + len(looks), width_ratios=[1, 1.3, *[1] * len(looks)])
    axes[0].imshow(image[0].permute(1, 2, 0).numpy())
    axes[0].set_title("the picture", fontsize=9)
    axes[1].barh(scenes.CLASSES, shares.numpy(), color="#0072B2")
    axes[1].invert_yaxis()
    axes[1].set(xlim=(0, 1), xticks=[0, 1], xticklabels=["0", "100 %"])
    axes[1].tick_params(labelsize=7)
    axes[1].set_title(f"{answer}: {share}", fontsize=9)
    for number, (ax, head) in enumerate(zip(axes[2:], looks, strict=True), 1):
        ax.imshow(head.numpy(), cmap="viridis")
        ax.set_title(f"head {number}", fontsize=9)
    for ax in (axes[0], *axes[2:]):
        ax.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=150)
    top = [divmod(head.argmax().item(), grid[1]) for head in looks]
    where = "; ".join(f"head {i} most at row {row + 1}, column {column + 1}"
                      for i, (row, column) in enumerate(top, 1))
    text = (f"A {label} among clutter. The Vision Transformer says {answer}, with {share}. In its last layer the class "
            f"token looks with {where}.")
    return (f'<figure class="pg-still"><img src="../_static/playground/{path.name}" alt="{html.escape(text)}">\n'
            "<figcaption>This is how it looks, drawn by the same model while the page was built. "
            "To play with it, the page needs JavaScript.</figcaption>\n"
            '<p id="playground-problem" hidden>The playground could not start in this browser: it needs one from 2022 '
            "or later, and the scripts beside this page.</p></figure>")
