"""The one file of chapter 0: it works with torch alone, and computes what the library computes."""

import subprocess
import sys
from pathlib import Path

import torch

from vitlite import ViT, ViTConfig

FILE = Path(__file__).resolve().parents[1] / "notebooks/vit.py"
ALONE = """
import numpy, torch
from vit import ViT, train
arrays = numpy.load("images.npz")
images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
torch.manual_seed(0)
losses = train(ViT(8, 4, 2, 16, 2, 2), images, labels, steps=60, batch_size=16)
assert sum(losses[-5:]) < sum(losses[:5]) / 2, losses
"""


def test_it_trains_alone_in_an_empty_folder(tmp_path):
    import numpy as np

    draw = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = draw.normal(size=(64, 3, 8, 8)).astype(np.float32) + 2 * labels[:, None, None, None].astype(np.float32)
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    (tmp_path / "vit.py").write_text(FILE.read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, check=True)


def test_it_computes_what_the_library_computes(monkeypatch):
    monkeypatch.syspath_prepend(str(FILE.parent))
    import vit

    torch.manual_seed(0)
    ours = vit.ViT(image_size=16, patch_size=4, classes=3, dim=24, depth=2, heads=3).eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    theirs = ViT(ViTConfig(image_size=16, patch_size=4, num_classes=3, embed_dim=24, depth=2, num_heads=3, mlp_dim=48,
                           layer_norm_eps=1e-5)).eval()
    names = {"embed.": "patch_embed.projection.", "project.": "projection.", "mlp.0.": "mlp.expand.",
             "mlp.2.": "mlp.contract.", "head.": "head.0."}
    state = ours.state_dict()
    for here, there in names.items():
        state = {key.replace(here, there): value for key, value in state.items()}
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(ours(images), theirs(images))


def test_it_is_short_enough_to_read():
    lines = FILE.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 90
    assert max(map(len, lines)) <= 88
