"""The five parts that the block gained since 2021, each alone and all together, are those of timm's ``Eva``."""

import pytest
import timm
import torch

from vitlite import ViTConfig, weights

GRID, WIDTH, HEADS, HIDDEN = (4, 5), 24, 3, 40
# Each part as timm names it, and as ViTConfig does; layer scale folds into the weights.
PARTS = {
    "layer scale": ({"init_values": 0.1}, {}),
    "normalised queries and keys": ({"qk_norm": True}, {"qk_norm": True}),
    "SwiGLU": ({"swiglu_mlp": True}, {"mlp": "swiglu"}),
    "registers": ({"num_reg_tokens": 3}, {"registers": 3}),
    "rotary positions": ({"use_abs_pos_emb": False, "use_rot_pos_emb": True}, {"position": "rotary"}),
}


def theirs_and_ours(parts):
    size = tuple(4 * n for n in GRID)
    theirs, ours = (dict(pair for part in parts for pair in PARTS[part][side].items()) for side in (0, 1))
    torch.manual_seed(0)
    eva = timm.models.eva.Eva(img_size=size, patch_size=4, num_classes=5, embed_dim=WIDTH, depth=2, num_heads=HEADS,
                              mlp_ratio=HIDDEN / WIDTH, attn_type="rope", global_pool="token", rope_temperature=100.0,
                              **theirs).eval()
    for weight in eva.parameters():  # no two parts may agree because both do nothing yet
        torch.nn.init.normal_(weight, std=0.5)
    model = weights.from_timm(eva)
    assert model.config == ViTConfig(size, 4, num_classes=5, embed_dim=WIDTH, depth=2, num_heads=HEADS, mlp_dim=HIDDEN,
                                     **ours)
    return eva, model


@pytest.mark.parametrize("parts", [(), *((part,) for part in PARTS), tuple(PARTS)],
                         ids=["none", *PARTS, "all five"])
def test_logits_equal_timms(parts):
    eva, model = theirs_and_ours(parts)
    images = torch.randn(3, 3, *(4 * n for n in GRID))
    with torch.no_grad():
        logits = eva(images)
        torch.testing.assert_close(model(images), logits, rtol=1e-5, atol=1e-4)
    assert logits.std() > 0.1
