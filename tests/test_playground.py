"""The playground: its networks against PyTorch's, its page by mouse, touch and keys, and what people may feed it."""

import base64
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page

from vitlite import analysis
from vitlite.data import augment

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "book/_static/playground"
sys.path.insert(0, str(ROOT / "book/tools"))

import playground  # noqa: E402

CLOSE = 1e-5  # relative, of every single number
LOOK = """([name, scene, options]) => {
    const { weights, scenes, ViT, ResNet, normalise } = playground;
    const file = weights[name];
    const model = (playground.built ??= {})[name] ??= new (file.kind === 'ViT' ? ViT : ResNet)(file);
    const bytes = Uint8Array.from(atob(scenes.bytes), x => x.charCodeAt(0));
    const off = { ...options, layersOff: new Set(options.layersOff), headsOff: (options.headsOff ?? []).map(x => new Set(x)) };
    const passed = model.forward(normalise(bytes.subarray(3072 * scene, 3072 * (scene + 1)), file), off);
    const pack = (arrays) => {
        const bytes = new Uint8Array(Float64Array.from(arrays.flatMap(x => [...x])).buffer);
        let text = '';
        for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
        return btoa(text);
    };
    if (file.kind !== 'ViT') return { logits: pack([passed.logits]) };
    const heads = model.config.num_heads, tokens = 65;
    return {
        logits: pack([passed.logits]),
        attention: pack(passed.attention),
        lens: pack(playground.lens(model, passed.states)),
        rollout: pack(playground.rollout(passed.attention, heads, tokens, off)),
        distance: pack(passed.attention.map(x => [0, 1, 2, 3].map(head => playground.distance(x, head, tokens, 4)))),
        cosine: pack([playground.cosine(passed.states[6], 9, tokens)]),
    };
}"""


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the build step writes."""
    folder = tmp_path_factory.mktemp("generated")
    playground.write(folder)
    return folder


@pytest.fixture(scope="session")
def address(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The playground's part of its page, alone, as a file on the disk."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(STATIC, folder / "_static/playground")
    shutil.copytree(generated, folder / "_static/playground", dirs_exist_ok=True)
    (folder / "book").mkdir()
    (folder / "book/playground.html").write_text(standalone((generated / "still.html").read_text()))
    return (folder / "book/playground.html").as_uri()


def standalone(still: str) -> str:
    """What stands as HTML in the page's source."""
    blocks = re.findall(r"```\{raw\} html\n(.*?)```", (ROOT / "book/playground.md").read_text(), re.DOTALL)
    body = "".join(still if block.startswith(":file:") else block for block in blocks)
    return (f'<!doctype html><html lang="en" data-theme="light"><meta charset="utf-8"><title>Playground</title>'
            '<meta name="viewport" content="width=device-width"><style>html[data-theme=dark] { background: #14181e; '
            f'color: #ced6dd }} body {{ font-family: sans-serif; margin: 12px }}</style><body>{body}</body></html>')


@pytest.fixture(scope="session")
def networks() -> dict[str, tuple[torch.nn.Module, dict]]:
    """PyTorch's networks in double precision, with the weights that the page has."""
    read = {name: playground.read(playground.CHECKPOINTS / f"{name}.safetensors") for name in playground.NETWORKS}
    return {name: (model.double(), file) for name, (model, file) in read.items()}


@pytest.fixture
def engine(browser: Browser, generated: Path) -> Page:
    """A bare page with both networks in it."""
    tab = browser.new_page()
    tab.goto("about:blank")
    for script in ("tensors", "vit", "resnet", "analysis"):
        tab.add_script_tag(path=STATIC / f"{script}.js")
    for script in ("scenes", *playground.NETWORKS):
        tab.add_script_tag(path=generated / f"{script}.js")
    yield tab
    tab.close()


def look(tab: Page, name: str, scene: int, **options) -> dict[str, np.ndarray]:
    """What the page's network makes of a scene."""
    packed = tab.evaluate(LOOK, [name, scene, options])
    return {key: np.frombuffer(base64.b64decode(text)) for key, text in packed.items()}


def expected(network: tuple[torch.nn.Module, dict], scene: int, positions: bool = True,
             layers_off: tuple = (), heads_off: dict | None = None) -> dict[str, np.ndarray]:
    """The same from PyTorch and vitlite."""
    model, file = network
    images, _ = playground.test_scenes()
    image = augment.normalise(images[scene : scene + 1], file["mean"], file["std"]).double()
    with torch.inference_mode():
        if file["kind"] == "ResNet":
            return {"logits": model(image).numpy().ravel()}
        z = model.embed(image)
        z = model.tokens(z) if positions else torch.cat([model.class_token, z], dim=1)
        states, maps = [z], []
        for number, block in enumerate(model.blocks):
            off = (heads_off or {}).get(number, ())
            z, attention = ablated(block, z, off)
            z = states[-1] if number in layers_off else z
            states.append(z)
            maps.append(attention)
        used = [attention[:, [h for h in range(4) if h not in (heads_off or {}).get(number, ())]].mean(1, keepdim=True)
                for number, attention in enumerate(maps) if number not in layers_off]
        values = {
            "logits": model._logits(model._final(z)),
            "attention": torch.stack(maps),
            "lens": torch.stack([model._logits(model._final(state)).softmax(-1) for state in states]),
            "rollout": rollouts(used, layers_off),
            "distance": analysis.mean_attention_distance(maps, (8, 8), 4),
            "cosine": torch.cosine_similarity(z[0, 9:10], z[0], dim=-1),
        }
    return {key: value.numpy().ravel() for key, value in values.items()}


def ablated(block: torch.nn.Module, z: torch.Tensor, heads: tuple) -> tuple[torch.Tensor, torch.Tensor]:
    """A block whose given heads add nothing: their columns of the projection are zero."""
    kept = block.attention.projection.weight.data.clone()
    for head in heads:
        block.attention.projection.weight.data[:, 24 * head : 24 * (head + 1)] = 0
    out = block(z, return_attention=True)
    block.attention.projection.weight.data.copy_(kept)
    return out


def rollouts(used: list[torch.Tensor], layers_off: tuple) -> torch.Tensor:
    steps = list(analysis.rollout.iter_rollout(used))
    for layer in layers_off:  # a layer that is off leaves everything where it was
        steps.insert(layer, steps[layer - 1])
    return torch.stack(steps)


def furthest(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """The largest relative difference of any number."""
    assert ours.keys() == theirs.keys()
    assert all(ours[key].shape == theirs[key].shape for key in theirs)
    return max(float(np.max(np.abs(ours[key] - theirs[key]) / np.abs(theirs[key]))) for key in theirs)


# ---------------------------------------------------------------- the networks


@pytest.mark.parametrize("name", playground.NETWORKS)
def test_every_scene_gives_pytorchs_numbers(engine: Page, networks: dict, name: str) -> None:
    for scene in range(playground.SCENES):
        assert furthest(look(engine, name, scene), expected(networks[name], scene)) < CLOSE, scene
