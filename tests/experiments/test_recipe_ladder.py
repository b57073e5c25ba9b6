"""A rung is kept if it helps on validation images, and the next one is built on what was kept."""

import json

import pytest
from usual import USUAL

from experiments import recipe_ladder, runner
from experiments.recipe_ladder import climb


def test_a_change_is_made_to_the_last_rung_that_was_kept():
    rungs = [{"optimizer": "sgd"}, {"optimizer": "sgd", "flip": True}, {"optimizer": "sgd", "average": 0.9}]
    climbed = [{"fields": fields, "kept": kept} for fields, kept in zip(rungs, (True, True, False), strict=True)]
    assert climb(climbed, {"clip_norm": 1.0}) == {"optimizer": "sgd", "flip": True, "clip_norm": 1.0}
    assert climb([], {"flip": False}) == {"flip": False}


def test_a_ladder_is_climbed_once_and_repeated_with_another_seed(tmp_path):
    config = recipe_ladder.SCALES["quick"]
    config = config | {"changes": config["changes"][:1] + config["changes"][5:6] + config["changes"][12:13]}
    runs = [point | recipe_ladder.run(point, config, tmp_path) for point in recipe_ladder.points(config)]
    assert all(run.keys() >= USUAL | {"fields", "kept"} for run in runs)
    climbed = json.loads((tmp_path / "climbed.json").read_text())
    assert [step["change"] for step in climbed] == ["naive: SGD, constant rate", "Muon", "longer"]
    naive, faster, longer = climbed
    assert naive["kept"]
    assert faster["kept"] == (faster["val_accuracy"] > naive["val_accuracy"])
    assert longer["fields"]["optimizer"] == ("muon" if faster["kept"] else "sgd")
    assert longer["fields"]["steps"] == 20
    assert [run["fields"] for run in runs[3:]] == [run["fields"] for run in runs[:3]]
    assert runs[0]["test_accuracy"] != runs[3]["test_accuracy"] or runs[0]["curve"] != runs[3]["curve"]


def test_gains_are_over_the_last_rung_that_was_kept():
    runs = [{"change": name, "val_accuracy": accuracy, "test_accuracy": accuracy, "kept": kept}
            for name, accuracy, kept in (("a", 0.5, True), ("b", 0.4, False), ("c", 0.625, True))]
    summary = recipe_ladder.summarise(runs)
    assert [row["gain"] for row in summary.values()] == [None, 0.4 - 0.5, 0.125]
    runs = [run | {"parameters": 9, "steps": 20 if run["change"] == "b" else 10} for run in runs]
    figure = recipe_ladder.show({"summary": summary, "runs": runs})
    assert figure.get_suptitle() == "Same ViT, same steps: 50 % naive, 62 % with a recipe"
    runs[-1]["steps"] = 30
    assert recipe_ladder.show({"summary": summary, "runs": runs}).get_suptitle() == "50 % naive, 62 % with a recipe"
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.texts] == ["50.0 %", "−10.0", "+12.5"]
    kept, _, left = ax.lines
    assert (list(kept.get_xdata()), list(kept.get_ydata())) == ([50.0, 62.5], [0, 2])
    assert (list(left.get_xdata()), list(left.get_ydata())) == ([40.0], [1])
    assert runner.find("recipe_ladder") is recipe_ladder


@pytest.mark.parametrize("text", ["", "{", "[3]", "{}", '""', '[{"change": "naive: SGD, constant rate"}]',
                                  '[{"change": "x", "fields": {}, "val_accuracy": "high", "kept": true}]',
                                  '[{"change": "x", "fields": {}, "val_accuracy": NaN, "kept": true}]'])
def test_a_damaged_note_of_the_rungs_is_named(tmp_path, text):
    (tmp_path / "climbed.json").write_text(text)
    config = recipe_ladder.SCALES["quick"]
    with pytest.raises(ValueError, match=r"climbed.json is damaged as a note of the rungs \(.*\); remove it and the"):
        recipe_ladder.run(recipe_ladder.points(config)[0], config, tmp_path)
