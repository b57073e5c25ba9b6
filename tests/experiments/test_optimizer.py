"""The comparison of optimisers: each network with each, at its own rate."""

from usual import USUAL, check_the_card_tells_the_grid

from experiments import optimizer, records, runner


def test_the_grid_is_what_the_card_says():
    check_the_card_tells_the_grid(optimizer)


def test_a_record_has_every_length(tmp_path):
    runner.run("optimizer", "quick", folder=tmp_path, work=tmp_path / "work")
    record = records.read("optimizer", tmp_path)
    assert all(run.keys() >= USUAL | {"learning_rate", "search"} for run in record["runs"])
    assert record["summary"].keys() == {"vit", "resnet"}
    for by_optimizer in record["summary"].values():
        assert by_optimizer.keys() == {"adamw", "muon"}
        assert all(by_steps.keys() == {"5", "10"} for by_steps in by_optimizer.values())
    rates = {(run["network"], run["optimizer"]): run["learning_rate"] for run in record["runs"]}
    assert len(rates) == 4
