"""What the tests of experiments share: the keys of every run, and a card that tells its grid."""

from types import ModuleType

from experiments import runner

USUAL = {"parameters", "train_images", "steps", "images_seen", "seconds", "train_flops", "val_accuracy",
         "test_accuracy"}


def check_the_card_tells_the_grid(experiment: ModuleType) -> None:
    for scale in ("cpu", "full"):
        count = len(experiment.points(experiment.SCALES[scale]))
        assert f"{scale}: {count} runs" in runner.card(experiment)["cost"]
