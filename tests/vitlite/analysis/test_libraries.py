"""Models of timm, torchvision and transformers: their own maps and the maps read through ``weights`` tell the same."""

import pytest
import torch
import torchvision

from vitlite import analysis, weights

GRID, PATCH = (4, 4), 4


def perturbed(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def timm_vit():
    """timm's attention, with the fused kernel off, hands its maps to the dropout: there they can be read."""
    timm = pytest.importorskip("timm")
    model = perturbed(
        timm.models.vision_transformer.VisionTransformer(
            img_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=3, num_classes=5, reg_tokens=2
        )
    )
    for block in model.blocks:
        block.attn.fused_attn = False

    def call(images, return_attention=True):
        maps = []
        hooks = [
            block.attn.attn_drop.register_forward_hook(lambda *args: maps.append(args[2])) for block in model.blocks
        ]
        logits = model(images)
        for hook in hooks:
            hook.remove()
        return logits, maps

    return call, weights.from_timm(model)


def torchvision_vit():
    """torchvision asks its attention for no weights; here it is asked for each head's."""
    model = perturbed(torchvision.models.VisionTransformer(16, 4, 3, 3, 24, 48, num_classes=5))

    def call(images, return_attention=True):
        maps = []
        for layer in model.encoder.layers:
            attend = type(layer.self_attention).forward

            def asked(query, key, value, need_weights=False, layer=layer, attend=attend):
                mixed, own = attend(layer.self_attention, query, key, value, average_attn_weights=False)
                maps.append(own)
                return mixed, own

            layer.self_attention.forward = asked
        logits = model(images)
        for layer in model.encoder.layers:
            del layer.self_attention.forward
        return logits, maps

    return call, weights.from_torchvision(model)


def transformers_vit():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=48, image_size=16, patch_size=4,
        num_labels=5, attn_implementation="eager",
    )
    model = perturbed(transformers.ViTForImageClassification(config))

    def call(images, return_attention=True):
        output = model(images, output_attentions=True)
        return output.logits, output.attentions

    return call, weights.from_transformers(model)


@pytest.mark.parametrize("library", [timm_vit, torchvision_vit, transformers_vit])
def test_every_analysis_of_attention_agrees_on_theirs_and_ours(library):
    theirs, ours = library()
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    maps = theirs(images)[1]
    assert len(maps) == 3
    assert maps[0].std() > 0.01, "or uniform maps would be compared with uniform ones"
    for measure in (
        lambda maps: analysis.mean_attention_distance(maps, GRID, PATCH, per_image=True),
        lambda maps: analysis.attention_entropy(maps),
        lambda maps: analysis.class_attention(maps, GRID, per_head=True),
        lambda maps: analysis.attention_rollout(maps),
    ):
        torch.testing.assert_close(measure(ours.iter_attention(images)), measure(maps), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("library", [timm_vit, transformers_vit])
def test_gradient_rollout_agrees_on_theirs_and_ours(library):
    theirs, ours = library()
    images, classes = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 3])
    found = analysis.gradient_rollout(ours, images, classes)
    torch.testing.assert_close(found, analysis.gradient_rollout(theirs, images, classes), rtol=1e-3, atol=1e-4)
    assert (found - torch.eye(found.shape[-1])).abs().max() > 1e-3


def test_torchvision_hands_out_copies_of_its_maps_so_gradient_rollout_goes_through_weights():
    theirs, ours = torchvision_vit()
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match="logits do not depend on these maps"):
        analysis.gradient_rollout(theirs, images)
    assert analysis.gradient_rollout(ours, images).shape == (2, 17, 17)


def test_transformers_without_explicit_attention_is_told_so():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, image_size=16, patch_size=4
    )
    output = transformers.ViTForImageClassification(config).eval()(torch.randn(1, 3, 16, 16))
    with pytest.raises(TypeError, match="fused attention forms no maps.*'eager' in transformers"):
        analysis.attention_rollout(output.attentions)


def test_their_position_tables_and_filters_are_read_as_they_are():
    timm, transformers = pytest.importorskip("timm"), pytest.importorskip("transformers")
    deit = timm.models.deit.VisionTransformerDistilled(img_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=3)
    similarity = analysis.position_similarity(deit.pos_embed, GRID)
    ours = weights.from_timm(deit)
    assert torch.equal(analysis.position_similarity(ours.position_table(), GRID), similarity)
    there = analysis.embedding_filters(deit.patch_embed.proj.weight, count=8)
    here = analysis.embedding_filters(ours.patch_embed.projection.weight, PATCH, count=8)
    torch.testing.assert_close(here.components, there.components)
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=3, image_size=16, patch_size=4
    )
    table = transformers.ViTModel(config, add_pooling_layer=False).embeddings.position_embeddings
    assert analysis.position_similarity(table, GRID).shape == (4, 4, 4, 4)
