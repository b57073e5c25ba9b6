"""Our model is theirs, to the last digits: timm, transformers, torchvision and the official .npz, in and out."""

import dataclasses
import functools
import json
import re
import sys
import warnings
import zipfile

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
import transformers
from torch import nn

from vitlite import ViT, ViTConfig, hybrid, weights

# A bare state dict of timm or transformers leaves something out; tests that are about another thing do not mind.
ASSUMED = "the tensors of .* do not tell all of its model"
pytestmark = pytest.mark.filterwarnings(f"ignore:{ASSUMED}")
TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5, "mlp_ratio": 2}


def perturbed(model, scale=0.2):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model.eval()


def same(ours, theirs, size=(16, 16), channels=3):
    images = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mine, other = ours(images), theirs(images)
        other = getattr(other, "logits", other)
    assert other.std() > 0.1, "or zeros would be compared with zeros"
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)
    assert not ours.training


# ---- timm

TIMM = {
    "plain": {},
    "not square": {"img_size": (16, 24), "patch_size": (4, 8)},
    "average, norm after": {"global_pool": "avg", "class_token": False},
    "average, norm before": {"global_pool": "avg", "class_token": False, "fc_norm": False},
    "average beside a class token": {"global_pool": "avg"},
    "class token, norm after": {"fc_norm": True},
    "registers": {"reg_tokens": 4},
    "registers without positions": {"reg_tokens": 3, "no_embed_class": True},
    "registers alone": {"reg_tokens": 2, "class_token": False, "global_pool": "avg"},
    "no positions": {"pos_embed": "none"},
    "other heads": {"num_heads": 8, "in_chans": 1},
    "other eps": {"norm_layer": functools.partial(nn.LayerNorm, eps=0.01)},
    "tanh GELU": {"act_layer": "gelu_tanh"},
    "no query bias": {"qkv_bias": False},
    "dynamic size": {"dynamic_img_size": True},
    "layer scale": {"init_values": 0.1},
    "DeiT III": {"init_values": 1e-6, "no_embed_class": True},
    "normalised queries and keys": {"qk_norm": True, "num_heads": 2},
    "SwiGLU in one layer": {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": "silu"},
    "SwiGLU in two layers": {"mlp_layer": timm.layers.SwiGLU, "act_layer": "silu", "qk_norm": True, "init_values": 0.1},
    "DINOv2 with registers": {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True},
}


def timm_vit(distilled=False, **changes):
    kind = (
        timm.models.deit.VisionTransformerDistilled if distilled else timm.models.vision_transformer.VisionTransformer
    )
    return perturbed(kind(**(TINY | changes)))


@pytest.mark.parametrize("case", TIMM)
def test_logits_equal_timms_both_ways(case):
    theirs, size = timm_vit(**TIMM[case]), TIMM[case].get("img_size", (16, 16))
    channels = TIMM[case].get("in_chans", 3)
    if case == "no query bias":
        with pytest.warns(UserWarning, match="no bias: zeros stand in"):
            ours = weights.from_timm(theirs)
    else:
        ours = weights.from_timm(theirs)
    same(ours, theirs, size, channels)
    back = weights.to_timm(ours)
    same(ours, back, size, channels)
    if case != "class token, norm after":  # which is the same thing
        assert weights.from_timm(back).config == ours.config


@pytest.mark.parametrize("changes", [{}, {"img_size": (16, 24)}, {"num_heads": 2, "num_classes": 3, "depth": 1}])
def test_logits_equal_timms_distilled_deit(changes):
    theirs = timm_vit(distilled=True, **changes)
    ours, size = weights.from_timm(theirs), changes.get("img_size", (16, 16))
    same(ours, theirs, size)
    theirs.distilled_training = theirs.training = True
    images = torch.randn(2, 3, *size)
    for mine, other in zip(ours.forward_heads(images), theirs(images), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)
    back = weights.to_timm(ours)
    assert type(back).__name__ == "VisionTransformerDistilled"
    same(ours, back, size)


@pytest.mark.parametrize("case", ["plain", "average, norm after", "registers", "registers without positions"])
def test_a_timm_state_dict_is_enough(tmp_path, case):
    theirs = timm_vit(**TIMM[case])
    torch.save({"model": theirs.state_dict()}, tmp_path / "nested.pth")
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    for source in (theirs.state_dict(), tmp_path / "nested.pth", str(tmp_path / "vit.safetensors")):
        same(weights.from_timm(source, num_heads=3), theirs)


def test_what_a_state_dict_does_not_tell_can_be_given():
    theirs = timm_vit(**(TIMM["not square"] | TIMM["average, norm before"] | TIMM["tanh GELU"]))
    given = {"num_heads": 3, "image_size": (16, 24), "pool": "mean", "gelu": "tanh"}
    same(weights.from_timm(theirs.state_dict(), **given), theirs, (16, 24))
    with pytest.raises(ValueError, match="12 positions.*no square grid.*image_size="):
        weights.from_timm(theirs.state_dict(), num_heads=3, pool="mean")
    with pytest.raises(ValueError, match="12 positions.*no square grid.*nor the grid of image_size=16×32 .* 4×8; pass"):
        weights.from_timm(theirs.state_dict(), num_heads=3, pool="mean", image_size=(16, 32))
    with pytest.raises(ValueError, match="does not tell the number of heads, width is 24; pass num_heads="):
        weights.from_timm(theirs.state_dict(), pool="mean", image_size=(16, 24))
    with pytest.raises(ValueError, match="pass pool='mean'"):
        weights.from_timm(theirs.state_dict(), num_heads=3, image_size=(16, 24))
    odd = timm_vit(img_size=(16, 24))  # 24 patches and a class token: 25 rows, which are no grid of 5×5
    same(weights.from_timm(odd.state_dict(), num_heads=3, image_size=(16, 24)), odd, (16, 24))
    wide = timm_vit(embed_dim=128, num_heads=2, depth=1)
    same(weights.from_timm(wide.state_dict()), wide)


def test_what_was_assumed_of_a_state_dict_is_said_in_one_sentence():
    theirs = timm_vit()
    read = functools.partial(weights.from_timm, theirs.state_dict())
    loud(lambda: read(num_heads=3), "assumed is image_size=16, pool='token', gelu='exact', layer_norm_eps=1e-06: pass")
    wide = timm_vit(embed_dim=192, num_heads=12, depth=1)
    loud(lambda: weights.from_timm(wide.state_dict()), "assumed is image_size=16, num_heads=3, pool='token'")
    told = {"image_size": 16, "pool": "token", "gelu": "exact", "layer_norm_eps": 1e-6}
    twelve = loud(lambda: weights.from_timm(wide.state_dict(), num_heads=12, **told))  # as the warning advises
    same(twelve, wide)
    loud(lambda: weights.from_timm(wide))
    relu = timm_vit(act_layer="relu").state_dict()
    loud(lambda: weights.from_timm(relu, num_heads=3), "assumed is .*gelu='exact'")
    hf = hf_vit().state_dict()
    loud(lambda: weights.from_transformers(hf, num_heads=3),
         "assumed is image_size=16, gelu='exact', layer_norm_eps=1e-12: pass")
    tv = torchvision.models.VisionTransformer(16, 4, 1, 1, 64, 40)
    loud(lambda: weights.from_torchvision(tv.state_dict()), "assumed is num_heads=1: pass")
    loud(lambda: weights.from_torchvision(tv.state_dict(), num_heads=1))


def test_our_own_model_through_timms_state_dict_keeps_its_heads_if_they_are_named():
    ours = perturbed(ViT(ViTConfig(32, 4, 3, 5, 192, 1, 12, 40)))
    state = weights.to_timm(ours).state_dict()
    three = loud(lambda: weights.from_timm(state), "assumed is image_size=32, num_heads=3")
    assert three.config.num_heads == 3
    same(loud(lambda: weights.from_timm(state, num_heads=12), "assumed is image_size=32, pool"), ours, (32, 32))


def test_the_image_size_that_the_caller_names_goes_first():
    theirs = timm_vit(img_size=(128, 32), patch_size=8)
    told = {"num_heads": 3, "pool": "token", "gelu": "exact", "layer_norm_eps": 1e-6}
    ours = loud(lambda: weights.from_timm(theirs.state_dict(), image_size=(128, 32), **told),
                "65 positions .* are taken for images of 128×32, as asked, though they could be a square image's")
    assert ours.config.image_size == (128, 32)
    same(ours, theirs, (128, 32))
    square = loud(lambda: weights.from_timm(timm_vit(img_size=64, patch_size=8).state_dict(), **told),
                  "assumed is image_size=64: pass").at_resolution((128, 32), "timm")  # as the warning advises
    assert square.config.image_size == (128, 32)
    loud(lambda: weights.from_timm(timm_vit().state_dict(), image_size=24, **told), "16×16.*resampled for 24×24")


@pytest.mark.parametrize("names", [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("student", "teacher")])
def test_a_checkpoint_with_two_state_dicts_is_refused_with_the_way_to_one(tmp_path, names):
    raw, averaged = timm_vit(), perturbed(timm_vit())
    torch.save({names[0]: raw.state_dict(), names[1]: averaged.state_dict(), "optimizer": {"state": {0: {"exp":
               torch.ones(2)}}}, "epoch": 3}, tmp_path / "run.pth")
    with pytest.raises(ValueError, match=rf"several state dicts.*torch.load\(path\)\['{names[1]}'\]"):
        weights.from_timm(tmp_path / "run.pth")
    same(weights.from_timm(torch.load(tmp_path / "run.pth")[names[1]], num_heads=3), averaged)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "net.encoder."])
def test_prefixes_of_wrappers_are_taken_off(prefix):
    theirs = timm_vit()
    state = {prefix + name: tensor for name, tensor in theirs.state_dict().items()}
    same(weights.from_timm(state, num_heads=3), theirs)
    same(weights.from_timm({"state_dict": state, "epoch": 3}, num_heads=3), theirs)
    with pytest.raises(ValueError, match=rf"stand behind '{prefix}': pass {{name.removeprefix\('{prefix}'\)"):
        weights.from_timm(state | {"loss.weight": torch.ones(5)}, num_heads=3)
    same(weights.from_timm({name.removeprefix(prefix): tensor for name, tensor in state.items()
                            if name.startswith(prefix)}, num_heads=3), theirs)


def test_models_in_wrappers_are_read():
    theirs, hf, tv = timm_vit(), hf_vit(), perturbed(torchvision.models.VisionTransformer(16, 4, 1, 1, 64, 40))
    for wrap in (torch.compile, nn.DataParallel, torch.optim.swa_utils.AveragedModel):
        same(loud(lambda wrap=wrap: weights.from_timm(wrap(theirs))), theirs)
        same(loud(lambda wrap=wrap: weights.from_transformers(wrap(hf))), hf)
        same(loud(lambda wrap=wrap: weights.from_torchvision(wrap(tv))), tv)
    averaged = torch.optim.swa_utils.AveragedModel(theirs).state_dict()
    same(weights.from_timm(averaged, num_heads=3), theirs)


@pytest.mark.parametrize("size", ["1GB", "20KB"])
def test_a_folder_of_save_pretrained_tells_all(tmp_path, size):
    theirs = hf_vit(hidden_act="gelu_new", num_attention_heads=8, image_size=(16, 24), layer_norm_eps=1e-2)
    theirs.save_pretrained(tmp_path, max_shard_size=size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (size == "20KB")
    same(loud(lambda: weights.from_transformers(tmp_path)), theirs, (16, 24))
    if size == "20KB":
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
        given = {"num_heads": 8, "gelu": "tanh", "layer_norm_eps": 1e-2, "image_size": (16, 24)}
        same(loud(lambda: weights.from_transformers(tmp_path / "model.safetensors.index.json", **given)), theirs,
             (16, 24))
        shard = next(tmp_path.glob("model-*.safetensors"))
        with pytest.raises(ValueError, match=r"is one shard of \d; pass the folder, or its .index.json"):
            weights.from_transformers(shard)
        shard.unlink()
        with pytest.raises(FileNotFoundError, match=f"no file .*{shard.name}, which .*index.json lists; fetch"):
            weights.from_transformers(tmp_path)
        (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model.safetensors.index.json"}}')
        with pytest.raises(ValueError, match="damaged as an index of shards"):
            weights.from_transformers(tmp_path)
        (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
        with pytest.raises(ValueError, match=r"index\.json is damaged .*it lists no files"):
            weights.from_transformers(tmp_path)
        (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b"}}')
        with pytest.raises(ValueError, match="damaged as an index of shards .it lists no files, or some outside"):
            weights.from_transformers(tmp_path)
        return
    told = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(told | {"image_size": 10**5}))
    with pytest.raises(ValueError, match="25 positions .* are not those of images of 100000×100000, 625000000 patches"):
        weights.from_transformers(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is damaged as the configuration of a model"):
        weights.from_transformers(tmp_path)
    with pytest.raises(ValueError, match="is a folder without model.safetensors.*pass the file with the weights"):
        weights.from_timm(tmp_path.parent)


def test_a_folder_whose_model_we_cannot_express_is_refused(tmp_path):
    hf_vit(hidden_act="relu").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot express hidden_act='relu'"):
        weights.from_transformers(tmp_path)


def test_a_file_is_read_by_what_it_holds_not_by_its_name(tmp_path):
    theirs = timm_vit()
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "vit.bin")
    torch.save(theirs.state_dict(), tmp_path / "vit.safetensors")
    for name in ("vit.bin", "vit.safetensors"):
        same(weights.from_timm(tmp_path / name, num_heads=3), theirs)
    (tmp_path / "vit.onnx").write_bytes(b"1")
    with pytest.raises(ValueError, match="read it with from_onnx"):
        weights.from_timm(tmp_path / "vit.onnx")


def test_weights_that_are_no_numbers_are_refused_by_name():
    state = timm_vit().state_dict()
    for tensor, why in ((state["norm.weight"] * float("nan"), "24 of 24 values not finite"),
                        (state["norm.weight"].to(torch.int8), "torch.int8 there")):
        with pytest.raises(ValueError, match=f"holds what is no weight, so nothing was loaded: norm.weight .{why}"):
            weights.from_timm(state | {"norm.weight": tensor}, num_heads=3)


def test_tensors_that_do_not_fit_one_another_are_refused():
    state = hf_vit().state_dict()
    name = next(name for name in state if "q_proj.weight" in name or "query.weight" in name)
    with pytest.raises(ValueError, match="tensors of a transformers .* do not fit one another"):
        weights.from_transformers(state | {name: state[name][:, :5]}, num_heads=3)


def test_an_older_timm_head_with_pre_logits():
    theirs = timm_vit()
    state = theirs.state_dict() | {"pre_logits.fc.weight": torch.randn(24, 24), "pre_logits.fc.bias": torch.randn(24)}
    ours = weights.from_timm(state, num_heads=3)
    y = torch.tanh(
        ours.features(torch.ones(1, 3, 16, 16)) @ state["pre_logits.fc.weight"].T + state["pre_logits.fc.bias"]
    )
    torch.testing.assert_close(ours(torch.ones(1, 3, 16, 16)), theirs.head(y))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_norm": True}, "norm_pre.weight: a norm before the first block"),
        ({"global_pool": "map"}, "global_pool='map'|attention pooling"),
        ({"global_pool": "max"}, "global_pool='max'"),
        ({"pool_include_prefix": True, "global_pool": "avg"}, "pooling of the prefix tokens"),
        ({"distilled": True, "reg_tokens": 2}, "register tokens that timm's distilled model leaves out"),
        ({"act_layer": "silu"}, "activation SiLU"),
        ({"act_layer": "quick_gelu"}, "activation QuickGELU"),
        ({"norm_layer": "rmsnorm"}, "LayerNorm"),
        ({"scale_attn_norm": True}, "attn.norm.weight: a norm inside attention or MLP"),
    ],
)
def test_what_timm_has_and_we_cannot_express_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        weights.from_timm(timm_vit(**changes))


def test_other_parts_of_timm_are_refused_by_name():
    for changes, message in (
        ({"block_fn": timm.models.vision_transformer.ResPostBlock}, "ResPostBlock"),
        ({"mlp_layer": timm.layers.GluMlp}, "a GluMlp other than SwiGLUPacked"),
        ({"mlp_layer": timm.layers.SwiGLUPacked}, "a GluMlp other than SwiGLUPacked"),  # timm's GELU gates here
    ):
        with pytest.raises(ValueError, match=message):
            weights.from_timm(timm_vit(**changes))
    gate = {"blocks.0.attn.gate.weight": torch.ones(24, 24)}
    with pytest.raises(ValueError, match="blocks.0.attn.gate.weight: a gated attention, which multiplies its output"):
        weights.from_timm(timm_vit().state_dict() | gate, num_heads=3)
    loud(lambda: weights.from_timm(timm_vit(mlp_layer=timm.layers.GluMlp).state_dict(), num_heads=3, image_size=16,
                                   layer_norm_eps=1e-6), "assumed is .*mlp='swiglu'")
    with pytest.raises(ValueError, match="ResNet here; expected timm's VisionTransformer"):
        weights.from_timm(timm.create_model("resnet18"))
    with pytest.raises(ValueError, match="not the weights of a timm VisionTransformer.*conv1.weight"):
        weights.from_timm(timm.create_model("resnet18").state_dict())
    with pytest.raises(ValueError, match="vitlite.model.ViT here"):
        weights.from_timm(ViT(ViTConfig(16, 4, 3, 5, 24, 1, 3, 40)))


def test_what_timm_cannot_express_is_refused():
    base = ViTConfig(16, 4, 3, 5, 24, 1, 3, 40)
    for changes, message in (
        ({"head": "mlp"}, "hidden layer"),
        ({"position": "relative"}, "relative positions"),
        ({"distillation": True, "registers": 1}, "registers beside"),
        ({"distillation": True, "pool": "mean"}, "mean beside"),
    ):
        with pytest.raises(ValueError, match=f"timm's VisionTransformer has no .*{message}"):
            weights.to_timm(ViT(dataclasses.replace(base, **changes)))


# ---- timm's Eva

EVA = {
    "attention of its own, without a bias of keys": {"attn_type": "eva", "num_reg_tokens": 2},
    "columns first, as published": {"rope_grid_indexing": "xy", "init_values": 0.1},
    "halves paired": {"rope_rotate_half": True, "img_size": (16, 24), "patch_size": (4, 8), "qk_norm": True},
    "halves, columns first, all parts": {"rope_rotate_half": True, "rope_grid_indexing": "xy", "img_size": (24, 8),
                                         "qk_norm": True, "swiglu_mlp": True, "init_values": 0.1, "num_reg_tokens": 3},
    "three projections, gate in two layers": {"qkv_fused": False, "swiglu_mlp": True, "swiglu_align_to": 8},
    "no query bias": {"qkv_bias": False, "num_heads": 2},
    "average, any size": {"global_pool": "avg", "class_token": False, "dynamic_img_size": True, "img_size": (20, 12),
                          "in_chans": 1, "norm_layer": functools.partial(nn.LayerNorm, eps=0.01)},
    "average beside a class token, norm before": {"global_pool": "avg", "use_fc_norm": False},
    "a table of positions": {"use_abs_pos_emb": True, "use_rot_pos_emb": False, "num_reg_tokens": 2},
    "one row": {"img_size": (4, 24)},
    "DINOv3": {"rope_type": "dinov3", "rope_rotate_half": True, "num_reg_tokens": 4, "init_values": 1e-5,
               "qkv_bias": False, "img_size": (12, 20), "use_fc_norm": False, "global_pool": "avg"},
    "DINOv3 with a gate": {"rope_type": "dinov3", "swiglu_mlp": True, "rope_grid_indexing": "xy"},
}


def eva(**changes):
    shape = {"attn_type": "rope", "global_pool": "token", "use_abs_pos_emb": False, "use_rot_pos_emb": True,
             "rope_temperature": 100.0, "head_init_scale": 1.0}
    return perturbed(timm.models.eva.Eva(**(TINY | shape | changes)))


@pytest.mark.parametrize("case", EVA)
def test_logits_equal_those_of_timms_eva_both_ways(case):
    theirs = eva(**EVA[case])
    missing = {"no query bias": "query, key and value", "DINOv3": "query, key and value"}.get(case)
    missing = "keys" if EVA[case].get("attn_type") == "eva" else missing
    ours = loud(lambda: weights.from_timm(theirs), *([f"whose {missing} have no bias: zeros"] if missing else []))
    size, channels = EVA[case].get("img_size", (16, 16)), EVA[case].get("in_chans", 3)
    same(ours, theirs, size, channels)
    back = weights.to_timm(ours)
    assert type(back).__name__ == ("VisionTransformer" if case == "a table of positions" else "Eva")
    same(ours, back, size, channels)
    assert weights.from_timm(back).config == ours.config


@pytest.mark.parametrize("kind", ["rotary", "rotary-image"])
def test_what_a_state_dict_of_rotary_positions_does_not_tell(kind):
    ours = perturbed(ViT(ViTConfig((16, 24), 4, 3, 5, 24, 2, 3, 40, position=kind, qk_norm=True, mlp="swiglu")))
    state = weights.to_timm(ours).state_dict()
    told = {"num_heads": 3, "pool": "token", "gelu": "exact", "layer_norm_eps": 1e-6}
    with pytest.raises(ValueError, match="without a table of positions; pass position='none' or 'rotary'"):
        weights.from_timm(state, image_size=(16, 24), **told)
    with pytest.raises(ValueError, match="no table of positions, which alone tells the size; pass image_size="):
        weights.from_timm(state, position=kind, **told)
    with pytest.raises(ValueError, match="without a table of positions, and position is 'learned-1d'"):
        weights.from_timm(state, image_size=(16, 24), position="learned-1d", **told)
    with pytest.raises(ValueError, match="with a table of positions, and position is 'rotary'"):
        weights.from_timm(timm_vit().state_dict(), position="rotary", **told)
    read = loud(lambda: weights.from_timm(state, image_size=(16, 24), position=kind, **told),
                f"does not tell how '{kind}' positions turn: assumed is .* temperature 100.*pass it live")
    same(read, ours, (16, 24))


@pytest.mark.parametrize(("changes", "message"), [
    ({"use_abs_pos_emb": True}, "a table of positions beside rotary ones"),
    ({"rope_temperature": 10_000.0}, r"angles of this RotaryEmbeddingCat; .* both at temperature 100 .here 10000"),
    ({"rope_grid_offset": 0.5}, "angles of this RotaryEmbeddingCat"),
    ({"ref_feat_shape": 3}, "angles of this RotaryEmbeddingCat"),
    ({"rope_type": "mixed"}, "rope.freqs: rotary positions whose angles are learned or stored"),
    ({"rope_type": "mrope", "embed_dim": 192}, "angles of this RotaryEmbeddingMRope"),
    ({"num_kv_heads": 1, "qkv_fused": False}, "keys that several heads share"),
    ({"use_post_norm": True}, "EvaBlockPostNorm here; expected timm's Block or EvaBlock"),
    ({"scale_mlp": True, "swiglu_mlp": True}, "blocks.0.mlp.norm.weight: a norm inside"),
    ({"use_pre_transformer_norm": True}, "norm_pre.weight: a norm before the first block"),
    ({"global_pool": "max"}, "global_pool='max'"),
])
def test_what_eva_has_and_we_cannot_express_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        weights.from_timm(eva(**changes))


def test_what_eva_cannot_express_is_refused():
    base = ViTConfig(16, 4, 3, 5, 24, 1, 3, 40, position="rotary")
    for changes, message in (({"head": "mlp"}, "hidden layer"), ({"distillation": True}, "distillation token beside"),
                             ({"gelu": "tanh"}, "approximate GELU beside rotary")):
        with pytest.raises(ValueError, match=f"timm's Eva has no .*{message}"):
            weights.to_timm(ViT(dataclasses.replace(base, **changes)))


def test_without_timm_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.models.deit", None)
    with pytest.raises(ImportError, match="install timm first"):
        weights.to_timm(ViT(ViTConfig(16, 4, 3, 5, 24, 1, 3, 40)))


@pytest.mark.parametrize("kind", ["learned-2d", "sincos-2d", "none"])
@pytest.mark.parametrize("changes", [{"registers": 1}, {"distillation": True}])
def test_any_table_of_positions_goes_out(kind, changes):
    ours = perturbed(ViT(ViTConfig(16, 4, 3, 5, 24, 2, 3, 41, position=kind, gelu="tanh", **changes)))
    same(ours, weights.to_timm(ours))


# ---- a change on request, and damage


def loud(call, *messages):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = call()
    if not any("assumed" in message for message in messages):
        said = [w for w in said if not re.match(ASSUMED, str(w.message))]
    assert [message for message in messages if any(re.search(message, str(w.message)) for w in said)] == list(messages)
    assert len(said) == len(messages)
    assert {w.filename for w in said} <= {__file__}, "the warning points at the caller"
    return result


def test_another_resolution_and_class_count_on_request():
    theirs = timm_vit(reg_tokens=2)
    bigger = loud(lambda: weights.from_timm(theirs, image_size=(24, 16)), "16×16.*resampled for 24×16.*'timm'")
    theirs.set_input_size((24, 16))
    same(bigger, theirs, (24, 16))
    other = loud(lambda: weights.from_timm(theirs, num_classes=7), "head is new, for 7 classes")
    assert other.config.num_classes == 7
    assert not other(torch.randn(1, 3, 24, 16)).any()
    assert torch.equal(other.norm.weight, theirs.norm.weight)
    loud(lambda: weights.from_timm(theirs, num_classes=5, image_size=(24, 16)))
    both = timm.models.deit.VisionTransformerDistilled(**(TINY | {"num_classes": 0}))
    new = loud(lambda: weights.from_timm(both, num_classes=1), "for 1 classes")
    assert [h.shape for h in new.forward_heads(torch.randn(2, 3, 16, 16))] == [(2, 1), (2, 1)]
    with pytest.raises(ValueError, match="17 is not a multiple of 4"):
        weights.from_timm(theirs, image_size=17)
    with pytest.raises(ValueError, match="size is 0; it must be at least 1 pixel"):
        weights.from_timm(theirs, image_size=0)


LOST = ["pos_embed", "cls_token", "norm.weight", "head.weight", "head.bias", "patch_embed.proj.bias",
        "patch_embed.proj.weight", "blocks.1.attn.qkv.bias", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc2.weight",
        "blocks.1.norm1.weight", "blocks.0.attn.proj.bias"]


@pytest.mark.parametrize("lost", LOST)
def test_a_lost_tensor_is_never_passed_over(lost):
    state = timm_vit().state_dict()
    del state[lost]
    with pytest.raises(ValueError, match=r"missing|without|not the weights|no square grid|nothing to pool"):
        weights.from_timm(state, num_heads=3)


def test_every_tensor_that_does_not_fit_is_listed_with_both_shapes():
    state = timm_vit().state_dict()
    state["blocks.1.norm2.weight"] = torch.ones(25)
    state["head.bias"] = torch.zeros(6)
    state["head.weight"] = state["head.weight"][:, :20]
    state["surplus"] = torch.zeros(1)
    with pytest.raises(ValueError, match="nothing was loaded") as error:
        weights.from_timm(state, num_heads=3)
    assert "blocks.1.norm2.weight: [25] there, [24] in the model" in str(error.value)
    assert "head.0.bias: [6] there, [5] in the model" in str(error.value)
    assert "head.0.weight: [5, 20] there, [5, 24] in the model" in str(error.value)
    assert "surplus: not in the model" in str(error.value)


@pytest.mark.parametrize("name", ["pos_embed", "head.weight", "patch_embed.proj.weight"])
def test_a_tensor_with_other_axes_is_refused(name):
    state = timm_vit().state_dict()
    with pytest.raises(ValueError, match=r"not the weights of a timm VisionTransformer.* with \d axes"):
        weights.from_timm(state | {name: state[name].flatten()}, num_heads=3)


def test_a_source_of_another_kind_is_refused():
    for read in (weights.from_timm, weights.from_torchvision, weights.from_transformers):
        with pytest.raises(TypeError, match="source is a int; expected a model, its state dict, or a file"):
            read(3)
    with pytest.raises(TypeError, match="source is a int; expected an .npz file"):
        weights.from_npz(3)
    with pytest.raises(TypeError, match="a tensor for every name, but 'epoch' is a int"):
        weights.from_timm(timm_vit().state_dict() | {"epoch": 3})
    for write in (weights.to_timm, weights.to_torchvision):
        with pytest.raises(TypeError, match="model is .*; expected a ViT"):
            write(nn.Linear(1, 1))
    with pytest.raises(TypeError, match="size is '24'; expected an int"):
        weights.from_timm(timm_vit(), image_size="24")
    for read in (weights.from_timm, weights.from_torchvision, weights.from_transformers):
        with pytest.raises(TypeError, match="there is no option heads; expected some of num_heads, layer_norm_eps"):
            read(timm_vit().state_dict(), heads=3)


def test_a_whole_checkpoint_is_enough():
    theirs = timm_vit()
    same(weights.from_timm({"model": theirs.state_dict(), "epoch": 3}, num_heads=3), theirs)


def test_two_tensors_in_one_place_are_refused():
    with pytest.raises(ValueError, match="and another tensor are both norm.weight"):
        weights.from_timm(timm_vit().state_dict() | {"fc_norm.weight": torch.ones(24)}, num_heads=3)


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*none.pth"):
        weights.from_timm(tmp_path / "none.pth")
    for name in ("half.pth", "half.safetensors", "half.npz"):
        read = weights.from_npz if name.endswith("npz") else weights.from_timm
        for content in (b"PK\x03\x04 not whole", b"hello", b""):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=f"{name} is (damaged|no whole)"):
                read(tmp_path / name)
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(ValueError, match="array.npz is no whole .npz"):
        weights.from_npz(tmp_path / "array.npz")
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "module.pth")
    with pytest.raises(ValueError, match="holds more than tensors .only running it would tell.; .*state_dict.. alone"):
        weights.from_timm(tmp_path / "module.pth")
    for content in (b"<!doctype html>", b"version https://git-lfs.github.com/spec/v1\n", b"\x89HDF\r\n" + bytes(99)):
        (tmp_path / "other.pth").write_bytes(content)
        with pytest.raises(ValueError, match=r"other\.pth .*of neither safetensors nor torch\.save, for it begins"):
            weights.from_timm(tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list"):
        weights.from_timm(tmp_path / "list.pth")
    with pytest.raises(ValueError, match="read it with from_npz"):
        weights.from_timm(tmp_path / "half.npz")
    np.savez(tmp_path / "pickled.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="no whole .npz of plain arrays"):
        weights.from_npz(tmp_path / "pickled.npz")
    with pytest.raises(FileNotFoundError):
        weights.from_npz(tmp_path / "none.npz")


def test_a_changed_number_in_a_file_of_torch_is_found_where_it_has_check_sums(tmp_path, monkeypatch):
    theirs, path = timm_vit(), tmp_path / "vit.pth"
    torch.save(theirs.state_dict(), path)
    data = bytearray(path.read_bytes())
    data[data.index(theirs.pos_embed.detach().numpy().tobytes()) + 5] ^= 1
    path.write_bytes(data)
    torch.load(path)  # which sees nothing
    with pytest.raises(ValueError, match=r"vit.pth is damaged.*data/1 differs from its check sum.; fetch it again"):
        weights.from_timm(path, num_heads=3)
    monkeypatch.setattr(torch.serialization, "get_crc32_options", lambda: False)
    torch.save(theirs.state_dict(), path)
    assert not any(part.CRC for part in zipfile.ZipFile(path).infolist())
    same(weights.from_timm(path, num_heads=3), theirs)


@pytest.mark.parametrize(("read", "library", "change"), [
    (weights.from_timm, "a timm", lambda state: state.pop("norm.weight")),
    (weights.from_torchvision, "a torchvision", lambda state: state.pop("encoder.ln.weight")),
    (weights.from_timm, "no square grid", lambda state: state.update(pos_embed=torch.ones(1, 13, 24))),
    (weights.from_timm, "no weight", lambda state: state.update({"norm.weight": torch.full((24,), torch.nan)})),
])
def test_what_does_not_fit_in_a_file_is_said_with_its_name(tmp_path, read, library, change):
    torchvisions = torchvision.models.VisionTransformer(16, 4, 1, 3, 24, 40)
    state = (torchvisions if read == weights.from_torchvision else timm_vit()).state_dict()
    change(state)
    safetensors.torch.save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=rf"^{tmp_path}/x.safetensors: .*{library}"):
        read(tmp_path / "x.safetensors", num_heads=3)
    with pytest.raises(ValueError, match=f"^(?!{tmp_path})"):
        read(state, num_heads=3)


# ---- transformers

HF = {"image_size": 16, "patch_size": 4, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
      "intermediate_size": 40, "num_labels": 5}
TRANSFORMERS = {
    "plain": ("ViTForImageClassification", {}),
    "not square": ("ViTForImageClassification", {"image_size": (16, 24)}),
    "other heads, channels, eps": ("ViTForImageClassification",
                                   {"num_attention_heads": 8, "num_channels": 1, "layer_norm_eps": 1e-2}),
    "tanh GELU": ("ViTForImageClassification", {"hidden_act": "gelu_new"}),
    "one block": ("ViTForImageClassification", {"num_hidden_layers": 1, "num_labels": 3}),
    "no query bias": ("ViTForImageClassification", {"qkv_bias": False}),
    "two heads": ("DeiTForImageClassificationWithTeacher", {}),
    "two heads, wide patches": ("DeiTForImageClassificationWithTeacher", {"patch_size": 8, "num_attention_heads": 2}),
    "a distillation token without head": ("DeiTForImageClassification", {}),
}


def hf_vit(kind="ViTForImageClassification", **changes):
    config = transformers.DeiTConfig if kind.startswith("DeiT") else transformers.ViTConfig
    return perturbed(getattr(transformers, kind)(config(**(HF | changes))))


def old_names(state):
    """Names before version 5, as in published files."""
    pairs = {"layers.": "encoder.layer.", "attention.o_proj": "attention.output.dense", "mlp.fc1": "intermediate.dense",
             "mlp.fc2": "output.dense", "q_proj": "attention.query", "k_proj": "attention.key",
             "v_proj": "attention.value"}
    renamed = {}
    for name, tensor in state.items():
        for new, old in pairs.items():
            name = name.replace(new, old)
        renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("case", TRANSFORMERS)
def test_logits_equal_transformers(case):
    kind, changes = TRANSFORMERS[case]
    theirs, size = hf_vit(kind, **changes), changes.get("image_size", (16, 16))
    messages = ["no bias: zeros stand in"] if case == "no query bias" else []
    ours = loud(lambda: weights.from_transformers(theirs), *messages)
    same(ours, theirs, size, changes.get("num_channels", 3))
    assert ours.config.layer_norm_eps == changes.get("layer_norm_eps", 1e-12)


@pytest.mark.parametrize("kind", ["ViTForImageClassification", "DeiTForImageClassificationWithTeacher"])
def test_old_and_new_names_of_transformers(tmp_path, kind):
    theirs = hf_vit(kind)
    old, new = old_names(theirs.state_dict()), theirs.state_dict()
    assert any("encoder.layer.1.attention.attention.key.bias" in name for name in old)
    assert any("layers.1.attention.k_proj.bias" in name for name in new)
    theirs.save_pretrained(tmp_path)
    for source in (old, new, tmp_path / "model.safetensors"):
        same(weights.from_transformers(source, num_heads=3), theirs)


def test_transformers_at_another_resolution_is_its_own_interpolation():
    theirs = hf_vit()
    ours = loud(lambda: weights.from_transformers(theirs, image_size=(24, 20)), "resampled for 24×20.*'deit'")
    same(ours, lambda images: theirs(images, interpolate_pos_encoding=True), (24, 20))


def test_a_backbone_of_transformers_gets_a_new_head():
    theirs = perturbed(transformers.ViTModel(transformers.ViTConfig(**HF)))
    ours = loud(lambda: weights.from_transformers(theirs), "without a head: a new one, for 1000 classes.*at zero")
    assert not ours(torch.randn(1, 3, 16, 16)).any()
    ours = loud(lambda: weights.from_transformers(theirs, num_classes=4), "without a head: a new one, for 4 classes")
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(ours.features(images), theirs(images).last_hidden_state[:, 0], rtol=0, atol=1e-4)


def test_what_transformers_has_and_we_cannot_express_is_refused():
    with pytest.raises(ValueError, match="hidden_act='quick_gelu'"):
        weights.from_transformers(hf_vit(hidden_act="quick_gelu"))
    dino3 = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**HF, rope_theta=50.0))
    with pytest.raises(ValueError, match="cannot express rope_theta=50.0; it knows 100"):
        weights.from_transformers(dino3)
    relu = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**HF, use_gated_mlp=True, hidden_act="gelu"))
    with pytest.raises(ValueError, match="hidden_act='gelu' here; it knows .* the SiLU of a gate"):
        weights.from_transformers(relu)
    siglip = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**HF))
    with pytest.raises(ValueError, match="SiglipVisionModel; expected a ViT, DeiT, DINOv2 or DINOv3 of transformers"):
        weights.from_transformers(siglip)
    clip = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**HF))
    with pytest.raises(ValueError, match="pre_layrnorm.weight: a norm before the first block; ours enter it"):
        weights.from_transformers(clip)
    with pytest.raises(ValueError, match="not the weights of a transformers ViT"):
        weights.from_transformers(torchvision.models.resnet18(num_classes=2).state_dict())


DINOV3 = {
    "plain": {},
    "registers, not square": {"num_register_tokens": 4, "image_size": (16, 24)},
    "a gate": {"use_gated_mlp": True, "hidden_act": "silu", "image_size": (8, 20), "num_attention_heads": 2},
    "a bias of keys, other patches": {"key_bias": True, "layer_norm_eps": 0.01, "patch_size": (4, 8),
                                      "image_size": (12, 24), "num_channels": 1, "hidden_act": "gelu_new"},
    "no query bias": {"query_bias": False, "value_bias": False},
}


@pytest.mark.parametrize("case", DINOV3)
def test_states_equal_those_of_dinov3(case, tmp_path):
    changes = DINOV3[case]
    theirs = perturbed(transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**(HF | changes))))
    theirs.save_pretrained(tmp_path)
    size, channels = changes.get("image_size", (16, 16)), changes.get("num_channels", 3)
    missing = {"no query bias": "query, key and value have no bias", "a bias of keys, other patches": None}
    missing = missing.get(case, "keys have no bias")
    heard = [f"whose {missing}: zeros"] * bool(missing) + ["without a head: a new one, for 1000 classes"]
    ours = loud(lambda: weights.from_transformers(theirs), *heard)
    told = {"num_heads": ours.config.num_heads, "layer_norm_eps": ours.config.layer_norm_eps,
            "gelu": ours.config.gelu}
    with pytest.raises(ValueError, match="no table of positions, which alone tells the size; pass image_size="):
        weights.from_transformers(theirs.state_dict(), **told)
    bare = loud(lambda: weights.from_transformers(theirs.state_dict(), image_size=size, **told),
                *heard[:-1], "assumed is (mlp='swiglu', )?position='rotary-image': pass", heard[-1])
    folder = loud(lambda: weights.from_transformers(tmp_path), *heard)
    wider = ours.at_resolution((2 * size[0], size[1]))
    for model, height in ((ours, size[0]), (bare, size[0]), (folder, size[0]), (wider, 2 * size[0])):
        images = torch.randn(2, channels, height, size[1])
        states = theirs(images).last_hidden_state
        assert states.std() > 0.1
        torch.testing.assert_close(model.encode(model.embed(images)), states, rtol=0, atol=1e-4)


def dinov2(registers=0, kind="Model", **changes):
    """A small DINOv2 of transformers; with registers it is a class of its own."""
    shape = {name: value for name, value in HF.items() if name != "intermediate_size"} | {"mlp_ratio": 2} | changes
    name = "Dinov2WithRegisters" if registers else "Dinov2"
    shape |= {"num_register_tokens": registers} if registers else {}
    return perturbed(getattr(transformers, name + kind)(getattr(transformers, name + "Config")(**shape)))


def old_dinov2_names(state):
    for name in [name for name in state if ".gate_proj." in name]:
        both = state.pop(name), state.pop(name.replace("gate_proj", "up_proj"))
        state[name.replace("gate_proj", "weights_in")] = torch.cat(both)
    pairs = {".down_proj": ".weights_out"} if any(".weights_in." in name for name in state) else {}
    pairs |= {".q_proj": ".attention.query", ".k_proj": ".attention.key", ".v_proj": ".attention.value",
             ".o_proj": ".output.dense"}
    for new, old in pairs.items():
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    return state


@pytest.mark.parametrize(("registers", "gated"), [(0, False), (3, False), (0, True), (2, True)])
def test_states_equal_dinov2s_of_transformers(registers, gated):
    theirs = dinov2(registers, use_swiglu_ffn=gated)
    images = torch.randn(2, 3, 16, 16)
    wanted = theirs(images).last_hidden_state
    for source in (theirs, theirs.state_dict(), old_dinov2_names(theirs.state_dict())):
        ours = loud(lambda source=source: weights.from_transformers(source, num_heads=3), "without a head: a new one")
        torch.testing.assert_close(ours.encode(ours.embed(images)), wanted, rtol=0, atol=1e-4)
    assert wanted.std() > 0.1
    assert (ours.config.registers, ours.config.mlp) == (registers, "swiglu" if gated else "gelu")
    convention = "timm" if registers else "deit"
    other = loud(lambda: weights.from_transformers(theirs, image_size=(24, 20)), "without a head",
                 f"resampled for 24×20.*'{convention}'")
    images = torch.randn(2, 3, 24, 20)
    wanted = theirs(images).last_hidden_state
    torch.testing.assert_close(other.encode(other.embed(images)), wanted, rtol=0, atol=1e-4)


def test_a_head_that_reads_two_vectors_is_refused_or_replaced():
    theirs = dinov2(kind="ForImageClassification")
    with pytest.raises(ValueError, match="class token and the mean of the patches side by side.*pass num_classes="):
        weights.from_transformers(theirs)
    ours = loud(lambda: weights.from_transformers(theirs, num_classes=5), "the head is new, for 5 classes")
    images = torch.randn(2, 3, 16, 16)
    wanted = theirs.dinov2(images).last_hidden_state[:, 0]
    torch.testing.assert_close(ours.features(images), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("registers", [0, 2])
def test_dinov2s_own_file_has_timms_names_and_a_position_for_the_class_token(registers):
    theirs = dinov2(registers)
    state = {name: tensor for name, tensor in theirs.state_dict().items() if "attention" not in name}
    for i, layer in enumerate(theirs.encoder.layer):
        for leaf in ("weight", "bias"):
            parts = [getattr(layer.attention.get_submodule(f"{part}_proj"), leaf) for part in "qkv"]
            state[f"blocks.{i}.attn.qkv.{leaf}"] = torch.cat(parts)
            state[f"blocks.{i}.attn.proj.{leaf}"] = getattr(layer.attention.o_proj, leaf)
    pairs = {"encoder.layer": "blocks", "layer_scale": "ls", "lambda1": "gamma", "layernorm": "norm",
             "embeddings.patch_embeddings.projection": "patch_embed.proj",
             "embeddings.position_embeddings": "pos_embed", "embeddings.": ""}
    for new, old in pairs.items():
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    ours = loud(lambda: weights.from_timm(state, num_heads=3), "without a head")
    images = torch.randn(2, 3, 16, 16)
    wanted = theirs(images).last_hidden_state
    torch.testing.assert_close(ours.encode(ours.embed(images)), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["vit_small_patch14_dinov2", "vit_base_patch14_reg4_dinov2", "deit3_large_patch16_224"]
)
def test_published_shapes_of_timm_with_layer_scale_load(name):
    depth = {"depth": 2, "img_size": 56 if "14" in name else 64}
    theirs = perturbed(timm.create_model(name, **depth), 0.05)
    messages = [] if theirs.num_classes else ["without a head"]
    ours = loud(lambda: weights.from_timm(theirs), *messages)
    images = torch.randn(1, 3, depth["img_size"], depth["img_size"])
    wanted = theirs.forward_features(images)
    torch.testing.assert_close(ours.encode(ours.embed(images)), wanted, rtol=0, atol=1e-4)
    again = loud(lambda: weights.from_timm(theirs.state_dict()), *messages)
    assert again.config == ours.config


# ---- the paper's hybrid


def r50_vit(name="vit_base_r50_s16_224", **changes):
    theirs = timm.create_model(name, **({"embed_dim": 48, "num_heads": 3, "depth": 2, "num_classes": 5, "img_size": 64}
                                        | changes))
    return perturbed(theirs, 0.05)


@pytest.mark.parametrize("name", ["vit_base_r50_s16_224", "vit_large_r50_s32_224"])
def test_logits_equal_timms_hybrid(name):
    theirs = r50_vit(name)
    ours = weights.from_timm(theirs)
    same(ours, theirs, (64, 64))
    assert isinstance(ours.patch_embed, hybrid.R50)
    assert ours.at_resolution((96, 64))(torch.randn(1, 3, 96, 64)).shape == (1, 5)


def test_a_hybrids_state_dict_is_enough():
    theirs = r50_vit(depth=1)
    same(weights.from_timm(theirs.state_dict(), num_heads=3), theirs, (64, 64))


def official_hybrid(theirs):
    """The arrays that timm's hybrid would be read from, with the names and layout of R50+ViT-B_16.npz."""
    arrays = official(width=48, classes=5, mlp=192, patches=16)
    arrays = {name: array for name, array in arrays.items() if not name.startswith("embedding")}
    for name, tensor in theirs.state_dict().items():
        array = tensor.numpy()
        if not name.startswith("patch_embed."):
            continue
        name = re.sub(r"patch_embed\.backbone\.stages\.(\d)\.blocks\.(\d)\.",
                      lambda part: f"block{int(part[1]) + 1}/unit{int(part[2]) + 1}/", name)
        for timms, jax in (("patch_embed.backbone.stem.conv", "conv_root"),
                           ("patch_embed.backbone.stem.norm", "gn_root"),
                           ("downsample.conv", "conv_proj"), ("downsample.norm", "gn_proj"),
                           ("patch_embed.proj", "embedding"), ("norm", "gn")):
            name = name.replace(timms, jax)
        layer, leaf = name.rsplit(".", 1)
        if "gn" in layer:
            arrays[f"{layer}/{'scale' if leaf == 'weight' else 'bias'}"] = array[None, None, None]
        elif leaf == "weight":
            arrays[f"{layer}/kernel"] = array.transpose(2, 3, 1, 0)
        else:
            arrays[f"{layer}/bias"] = array
    return arrays


def test_the_npz_of_a_hybrid_equals_timms_loading_of_it(tmp_path):
    theirs = r50_vit()
    np.savez(tmp_path / "R50+ViT.npz", **official_hybrid(theirs))
    again = r50_vit()
    again.load_pretrained(str(tmp_path / "R50+ViT.npz"))
    assert torch.equal(again.patch_embed.proj.weight, theirs.patch_embed.proj.weight)
    ours = weights.from_npz(tmp_path / "R50+ViT.npz", gelu="exact")
    same(ours, again, (64, 64))


def test_other_hybrids_are_refused_by_name():
    with pytest.raises(ValueError, match="a stem that is no plain projection, nor the ResNet-50"):
        weights.from_timm(timm.create_model("vit_tiny_r_s16_p8_224", depth=1, num_classes=5).state_dict())


# ---- the official .npz


def official(depth=2, width=24, heads=3, mlp=48, classes=5, patch=(4, 4), patches=16, hidden=False, prefix="", seed=0):
    """Arrays with the names and layout of the released files."""
    draw = np.random.default_rng(seed)
    arrays = {"cls": (1, 1, width), "embedding/kernel": (*patch, 3, width), "embedding/bias": (width,),
              "Transformer/posembed_input/pos_embedding": (1, 1 + patches, width),
              "Transformer/encoder_norm/scale": (width,), "Transformer/encoder_norm/bias": (width,),
              "head/kernel": (width, classes), "head/bias": (classes,)}
    if hidden:
        arrays |= {"pre_logits/kernel": (width, width), "pre_logits/bias": (width,)}
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            arrays |= {f"{block}/{norm}/scale": (width,), f"{block}/{norm}/bias": (width,)}
        for part in ("query", "key", "value"):
            name = f"{block}/MultiHeadDotProductAttention_1/{part}"
            arrays |= {f"{name}/kernel": (width, heads, width // heads), f"{name}/bias": (heads, width // heads)}
        name = f"{block}/MultiHeadDotProductAttention_1/out"
        arrays |= {f"{name}/kernel": (heads, width // heads, width), f"{name}/bias": (width,)}
        for layer, (a, b) in enumerate([(width, mlp), (mlp, width)]):
            arrays |= {
                f"{block}/MlpBlock_3/Dense_{layer}/kernel": (a, b),
                f"{block}/MlpBlock_3/Dense_{layer}/bias": (b,),
            }
    return {prefix + name: (0.3 * draw.standard_normal(shape) + name.endswith("scale")).astype(np.float32)
            for name, shape in arrays.items()}


NPZ = [{}, {"heads": 8}, {"depth": 1, "mlp": 24}, {"classes": 9}, {"patch": (2, 2), "patches": 64},
       {"prefix": "opt/target/"}, {"heads": 1, "width": 32, "mlp": 64}]


@pytest.mark.parametrize("changes", NPZ)
def test_the_official_npz_equals_timms_loading_of_it(tmp_path, changes):
    arrays = official(**changes)
    np.savez(tmp_path / "vit.npz", **arrays)
    shape = {"width": 24, "heads": 3, "mlp": 48, "classes": 5, "depth": 2, "patch": (4, 4)} | changes
    theirs = timm_vit(
        embed_dim=shape["width"], num_heads=shape["heads"], mlp_ratio=shape["mlp"] / shape["width"],
        depth=shape["depth"], num_classes=shape["classes"], patch_size=shape["patch"],
    )
    theirs.load_pretrained(str(tmp_path / "vit.npz"))
    same(weights.from_npz(tmp_path / "vit.npz", gelu="exact"), theirs)
    ours = weights.from_npz(arrays)
    assert ours.config.gelu == "tanh", "as the official code has it"
    same(ours, weights.to_timm(ours))


def test_the_npz_at_another_size_by_the_official_convention_or_timms(tmp_path):
    np.savez(tmp_path / "vit.npz", **official())
    theirs = timm_vit(img_size=24, mlp_ratio=2)
    theirs.load_pretrained(str(tmp_path / "vit.npz"))
    same(weights.from_npz(tmp_path / "vit.npz", gelu="exact").at_resolution(24, "timm-npz"), theirs, (24, 24))
    ours = loud(lambda: weights.from_npz(tmp_path / "vit.npz", image_size=24), "resampled for 24×24.*'jax'")
    jax = weights.from_npz(tmp_path / "vit.npz").at_resolution(24, "jax")
    assert torch.equal(ours.position, jax.position)


def test_the_npz_with_its_pre_training_head():
    arrays = official(hidden=True)
    ours = weights.from_npz(arrays)
    images = torch.randn(2, 3, 16, 16)
    hidden = torch.tanh(
        ours.features(images) @ torch.from_numpy(arrays["pre_logits/kernel"])
        + torch.from_numpy(arrays["pre_logits/bias"])
    )
    logits = hidden @ torch.from_numpy(arrays["head/kernel"]) + torch.from_numpy(arrays["head/bias"])
    torch.testing.assert_close(ours(images), logits, rtol=0, atol=1e-5)
    headless = {name: array for name, array in arrays.items() if not name.startswith(("head", "pre_logits"))}
    assert loud(lambda: weights.from_npz(headless), "without a head.*1000 classes").config.num_classes == 1000
    assert loud(lambda: weights.from_npz(arrays, num_classes=2), "2 classes").config.head == "linear"


# ---- torchvision, out, and its published weights


@pytest.mark.parametrize(
    "changes",
    [{}, {"head": "mlp"}, {"num_heads": 8, "layer_norm_eps": 1e-3}, {"position": "learned-2d"},
     {"position": "sincos-2d"}, {"position": "none"}, {"prefix_positions": False}, {"pool_norm": "after"}],
)
def test_logits_equal_torchvisions_on_the_way_out(changes):
    ours = perturbed(ViT(dataclasses.replace(ViTConfig(16, 4, 3, 5, 24, 2, 3, 40), **changes)))
    theirs = weights.to_torchvision(ours)
    same(ours, theirs)
    same(weights.from_torchvision(theirs), theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (16, 24)}, "non-square"),
        ({"in_channels": 1}, "3 channels"),
        ({"pool": "mean"}, "pooling of the mean"),
        ({"distillation": True}, "distillation or register"),
        ({"registers": 1}, "distillation or register"),
        ({"gelu": "tanh"}, "approximate GELU"),
        ({"position": "relative"}, "relative positions"),
        ({"position": "rotary"}, "rotary positions"),
    ],
)
def test_what_torchvision_cannot_express_is_refused(changes, message):
    ours = ViT(dataclasses.replace(ViTConfig(16, 4, 3, 5, 24, 2, 3, 40), **changes))
    with pytest.raises(ValueError, match=f"torchvision's VisionTransformer has no .*{message}"):
        weights.to_torchvision(ours)


def test_a_torchvision_model_whose_heads_were_replaced_by_one_layer():
    theirs = torchvision.models.VisionTransformer(16, 4, 1, 3, 24, 40)
    theirs.heads = nn.Linear(24, 7)
    same(weights.from_torchvision(perturbed(theirs)), theirs)


def test_names_of_torchvision_before_0_13():
    theirs = perturbed(torchvision.models.VisionTransformer(16, 4, 2, 3, 24, 40, num_classes=5))
    old = {name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
           for name, tensor in theirs.state_dict().items()}
    assert old.keys() != theirs.state_dict().keys()
    same(weights.from_torchvision(old, num_heads=3), theirs)


@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"])
def test_every_published_name_has_the_assumed_heads(name):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name)
    width, heads = theirs.hidden_dim, theirs.encoder.layers[0].num_heads
    assert heads == width // (80 if width == 1280 else 64)


def test_torchvision_at_another_size_and_class_count():
    theirs = perturbed(torchvision.models.VisionTransformer(16, 4, 1, 3, 24, 40, num_classes=5))
    ours = loud(
        lambda: weights.from_torchvision(theirs, image_size=24, num_classes=2), "resampled.*'torchvision'", "2 cl"
    )
    state = torchvision.models.vision_transformer.interpolate_embeddings(24, 4, theirs.state_dict())
    torch.testing.assert_close(ours.position.data, state["encoder.pos_embedding"])
