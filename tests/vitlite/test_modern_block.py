"""The five parts that the block gained since 2021, each alone and all together, are those of timm's ``Eva``."""

import pytest
import timm
import torch

from vitlite import ViT, ViTConfig

GRID, WIDTH, HEADS, HIDDEN = (4, 5), 24, 3, 40
# Each part as timm names it, and as ViTConfig does; layer scale folds into the weights.
PARTS = {
    "layer scale": ({"init_values": 0.1}, {}),
    "normalised queries and keys": ({"qk_norm": True}, {"qk_norm": True}),
    "SwiGLU": ({"swiglu_mlp": True}, {"mlp": "swiglu"}),
    "registers": ({"num_reg_tokens": 3}, {"registers": 3}),
    "rotary positions": ({"use_abs_pos_emb": False, "use_rot_pos_emb": True}, {"position": "rotary"}),
}
NAMES = {"cls_token": "class_token", "reg_token": "registers", "pos_embed": "position",
         "patch_embed.proj.": "patch_embed.projection.", ".attn.": ".attention.", ".q_norm.": ".query_norm.",
         ".k_norm.": ".key_norm.", ".proj.": ".projection.", ".fc1.": ".expand.", ".fc2.": ".contract.",
         "head.": "head.0."}


def theirs_and_ours(parts):
    size = tuple(4 * n for n in GRID)
    theirs, ours = (dict(pair for part in parts for pair in PARTS[part][side].items()) for side in (0, 1))
    torch.manual_seed(0)
    eva = timm.models.eva.Eva(img_size=size, patch_size=4, num_classes=5, embed_dim=WIDTH, depth=2, num_heads=HEADS,
                              mlp_ratio=HIDDEN / WIDTH, attn_type="rope", global_pool="token", rope_temperature=100.0,
                              **theirs).eval()
    for weight in eva.parameters():  # no two parts may agree because both do nothing yet
        torch.nn.init.normal_(weight, std=0.5)
    model = ViT(ViTConfig(size, 4, num_classes=5, embed_dim=WIDTH, depth=2, num_heads=HEADS, mlp_dim=HIDDEN, **ours))
    model.load_state_dict(translated(eva))
    return eva, model.eval()


def translated(eva):
    state, folded = dict(eva.state_dict()), {}
    for i in range(len(eva.blocks)):
        for gain, layer in (("gamma_1", "attn.proj"), ("gamma_2", "mlp.fc2")):
            gain = state.pop(f"blocks.{i}.{gain}", None)
            for kind in ("weight", "bias") if gain is not None else ():
                name = f"blocks.{i}.{layer}.{kind}"
                state[name] = torch.einsum("d,d...->d...", gain, state[name])
    for name, value in state.items():
        for old, new in NAMES.items():
            name = name.replace(old, new)
        folded[name] = value.flatten(1) if name == "patch_embed.projection.weight" else value
    return folded


@pytest.mark.parametrize("parts", [(), *((part,) for part in PARTS), tuple(PARTS)],
                         ids=["none", *PARTS, "all five"])
def test_logits_equal_timms(parts):
    eva, model = theirs_and_ours(parts)
    images = torch.randn(3, 3, *(4 * n for n in GRID))
    with torch.no_grad():
        logits = eva(images)
        torch.testing.assert_close(model(images), logits, rtol=1e-5, atol=1e-4)
    assert logits.std() > 0.1
