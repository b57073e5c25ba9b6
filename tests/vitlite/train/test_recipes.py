"""Recipes: schedules, optimisers, and what the named ones promise."""

import math

import pytest
import torch
from tiny import RECIPE, model

from vitlite.train import Recipe, recipes


def test_the_schedule_rises_linearly_and_falls_as_half_a_cosine():
    recipe = Recipe("s", steps=110, warmup_steps=10, learning_rate=1.0)
    rates = [recipes.learning_rate(recipe, step) for step in range(110)]
    assert rates[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert rates[60] == pytest.approx(0.5)
    assert rates[109] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))
    assert max(rates) == rates[9] == 1


def test_only_weight_matrices_decay():
    net = model()
    decayed, free = recipes.parameter_groups(net, 0.1)
    names = {id(p): name for name, p in net.named_parameters()}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert {names[id(p)].rsplit(".", 1)[-1] for p in decayed["params"]} == {"weight"}
    assert all(p.ndim == 2 for p in decayed["params"])
    undecayed = {names[id(p)] for p in free["params"]}
    assert {"class_token", "position", "norm.weight", "norm.bias", "blocks.0.attention.qkv.bias"} <= undecayed
    assert len(names) == len(decayed["params"]) + len(free["params"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"steps": 0}, "steps is 0"), ({"batch_size": 2.5}, "batch_size is 2.5"), ({"warmup_steps": 30}, "30 of 30 steps"),
     ({"learning_rate": 0}, "learning_rate is 0"), ({"mixup": -1}, "mixup is -1"), ({"erase": 1.5}, "erase is 1.5"),
     ({"cutmix": 2}, "cutmix is 2"), ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
     ({"average": 1.0}, "average is 1.0"), ({"optimizer": "adam"}, "optimizer is 'adam'; expected one of .*'adamw'"),
     ({"schedule": "step"}, "schedule is 'step'"), ({"learning_rate": float("nan")}, "learning_rate is nan"),
     ({"weight_decay": float("inf")}, "weight_decay is inf"), ({"clip_norm": 0.0}, "clip_norm is 0.0; .*None for no"),
     ({"betas": (0.9, 1.0)}, "betas is "), ({"micro_batch": 5}, "micro_batch is 5, batch_size is 16")],
)
def test_a_recipe_that_cannot_be_is_refused(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        RECIPE.replace(**changes)


def test_a_shorter_recipe_keeps_its_shape():
    short = RECIPE.lasting(10)
    assert (short.steps, short.warmup_steps, short.validate_every) == (10, 1, 3)
    assert RECIPE.lasting(2).warmup_steps == 0
    assert RECIPE.lasting(30) == RECIPE


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ValueError, match="recipe is 'slow'; known are 'quick'"):
        recipes.get("slow")


@pytest.mark.parametrize(("schedule", "halfway", "end"), [("linear", 0.5, 0.01), ("constant", 1.0, 1.0)])
def test_other_schedules_fall_in_a_straight_line_or_stay(schedule, halfway, end):
    recipe = Recipe("s", steps=110, warmup_steps=10, learning_rate=1.0, schedule=schedule)
    assert recipes.learning_rate(recipe, 4) == 0.5
    assert recipes.learning_rate(recipe, 60) == pytest.approx(halfway)
    assert recipes.learning_rate(recipe, 109) == pytest.approx(end)


def test_sgd_has_momentum():
    net, twin = model(), model()
    recipe = Recipe("s", steps=9, optimizer="sgd", learning_rate=0.1, weight_decay=0.01)
    ours = recipes.optimizer(net, recipe)
    theirs = torch.optim.SGD(recipes.parameter_groups(twin, 0.01), lr=0.1, momentum=0.9)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        for each, optimizer in ((net, ours), (twin, theirs)):
            optimizer.zero_grad()
            each(images)[:, 0].sum().backward()
            optimizer.step()
    for mine, expected in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, expected)


def test_the_papers_recipes_are_the_papers():
    pretrain, finetune = recipes.get("paper-pretrain"), recipes.get("paper-finetune")
    assert (pretrain.optimizer, pretrain.betas, pretrain.batch_size) == ("adamw", (0.9, 0.999), 4_096)
    assert (pretrain.warmup_steps, pretrain.weight_decay, pretrain.schedule) == (10_000, 0.3, "cosine")
    assert pretrain.steps * pretrain.batch_size == pytest.approx(300 * 1_281_167, rel=1e-3)
    assert (finetune.optimizer, finetune.batch_size, finetune.schedule) == ("sgd", 512, "cosine")
    assert (finetune.weight_decay, finetune.clip_norm) == (0.0, 1.0)
    deit = recipes.get("deit")
    assert deit.learning_rate == 5e-4 * deit.batch_size / 512
    assert (deit.weight_decay, deit.label_smoothing, deit.mixup, deit.erase) == (0.05, 0.1, 0.8, 0.25)
