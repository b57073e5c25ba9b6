"""A published ViT on larger and on wide images: where its position table comes from, and what an image looks like."""

import pytest
import torch
from usual import USUAL, quick_record

from experiments import real, real_weights, resolution
from vitlite import ViT, ViTConfig, position
from vitlite.position import CONVENTIONS

QUICK = resolution.SCALES["quick"]
SIDE = 2  # of the grid at the first size; 3 at the larger one


def small(image_size: int = 28) -> ViT:
    torch.manual_seed(0)
    model = ViT(ViTConfig(70, 14, 3, 10, embed_dim=24, depth=1, num_heads=3, mlp_dim=48)).eval()
    with torch.no_grad():
        model.position.normal_()
    return model.at_resolution(image_size, "deit")


@pytest.fixture(autouse=True)
def random_weights(monkeypatch):
    """A small model in place of the published one."""
    monkeypatch.setattr(real, "model", small)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Every form and table at quick scale, as the command runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real, "model", small)
        return quick_record("resolution", tmp_path_factory.mktemp("record"))


@pytest.mark.parametrize("table", CONVENTIONS)
def test_a_convention_is_the_librarys(table):
    model = small()
    expected = position.interpolate(model.position, (SIDE, SIDE), (3, 3), convention=table)
    torch.testing.assert_close(resolution.enlarged(model, "larger", table, QUICK).position, expected)


def test_nearest_neighbours_copy_the_old_rows():
    model = small()
    old = model.position.detach()[0, 1:].unflatten(0, (SIDE, SIDE))
    config = QUICK | {"larger": 56}
    new = resolution.enlarged(model, "larger", "nearest", config).position.detach()
    assert torch.equal(new[0, 1:].unflatten(0, (4, 4)), old.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1))
    assert torch.equal(new[:, :1], model.position[:, :1]), "the class token's row is not one of the picture"


def test_a_table_from_the_file_is_resampled_once():
    model = small()
    from_file = resolution.enlarged(model, "larger", "file", QUICK).position
    assert torch.equal(from_file, small(42).position)
    assert not torch.equal(from_file, resolution.enlarged(model, "larger", "deit", QUICK).position)


def test_a_new_table_is_as_before_training_and_all_else_stays():
    model = small()
    larger = resolution.enlarged(model, "larger", "new", QUICK)
    assert larger.position[:, 1:].std().item() == pytest.approx(0.02, rel=0.15)
    assert torch.equal(larger.position[:, :1], model.position[:, :1])
    after = larger.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in model.state_dict().items() if name != "position")


@pytest.mark.parametrize(("form", "grid"), [
    ("square", (2, 2)), ("squashed", (2, 2)), ("larger", (3, 3)), ("wide", (2, 3))])
def test_a_form_has_its_grid(form, grid):
    assert resolution.enlarged(small(), form, "deit", QUICK).config.grid == grid


@pytest.mark.parametrize(("form", "shape"), [
    ("square", (28, 28)), ("squashed", (28, 28)), ("larger", (42, 42)), ("wide", (28, 42))])
def test_an_image_comes_in_its_form(form, shape):
    """Wide and squashed ones show the middle of the rows and all of the columns."""
    seen, watched = [], torch.nn.Linear(1, 1)
    watched.forward = lambda images: seen.append(images) or torch.zeros(len(images), 10)
    split = real_weights.drawn(QUICK, 0).test
    split.images[:] = torch.linspace(0, 255, 32).to(torch.uint8).view(1, 1, 32, 1)  # brighter from top to bottom
    resolution._accuracy(watched, split, form, QUICK)
    assert seen[0].shape[2:] == shape
    whole = split.normalised()
    shown = seen[0][0, 0, -1].mean() - seen[0][0, 0, 0].mean()
    share = (shown / (whole[0, 0, -1, 0] - whole[0, 0, 0, 0])).item()
    assert share == pytest.approx(2 / 3 if form in ("wide", "squashed") else 1, abs=0.05)


def test_every_run_tells_what_it_cost_and_begins_at_one_linear_map(record):
    runs = {(run["form"], run["table"]): run for run in record["runs"]}
    assert list(runs) == resolution.PLACES
    for run in runs.values():
        assert run.keys() >= USUAL
    assert {place: run["tokens"] for place, run in runs.items()} == {
        (form, table): {"larger": 9, "wide": 6}.get(form, 4) for form, table in resolution.PLACES}
    assert runs["larger", "deit"]["flops"] > 2 * runs["square", "same"]["flops"]
    trained = {place for place, run in runs.items() if "fine_tuned" in run}
    assert trained == {("square", "same"), ("larger", "deit")}
    assert all(runs[place]["steps"] == 1 for place in trained)


def test_the_linear_map_is_fitted_once(monkeypatch, tmp_path):
    fitted = []
    monkeypatch.setattr(resolution, "with_a_linear_map", lambda model, *_: fitted.append(model))
    for form, table in (("square", "same"), ("larger", "jax")):
        resolution.run({"form": form, "table": table, "seed": 0}, QUICK | {"fine_tuned": []}, tmp_path)
    assert len(fitted) == 1


def test_the_summary_keeps_the_order_and_takes_seeds_together():
    def run(seed, once, later):
        return {"form": "square", "table": "same", "seed": seed, "tokens": 4, "flops": 7, "at_once": once,
                "fine_tuned": later}

    other = run(0, 0.3, 0.0) | {"form": "wide"}
    other.pop("fine_tuned")
    first, second = resolution.summarise([run(0, 0.5, 0.6), other, run(1, 0.7, 0.6)])
    assert (first["form"], first["at_once"]["mean"], first["at_once"]["seeds"]) == ("square", pytest.approx(0.6), 2)
    assert first["fine_tuned"]["mean"] == pytest.approx(0.6)
    assert (second["form"], "fine_tuned" in second) == ("wide", False)


def test_it_is_shown_as_bars(record):
    rows = {(row["form"], row["table"]): row for row in record["summary"]}
    heights = [bar.get_height() for bar in resolution.show(record, "forms").axes[0].patches]
    wanted = [rows["square", "same"][when]["mean"] for when in ("at_once", "fine_tuned")]
    assert heights[:2] == pytest.approx([100 * value for value in wanted])
    assert len(heights) == 6
    assert len(resolution.show(record, "tables").axes[0].patches) == 6
