"""The comparison of optimisers: each network with each, at its own rate."""

from usual import USUAL

from experiments import optimizer, records, runner


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


def test_a_record_is_drawn_as_a_curve_for_each_network_and_optimiser():
    runs = [{"network": network, "optimizer": how, "steps": steps, "seed": 0, "seconds": 1.0, "test_accuracy": 0.5,
             "val_accuracy": steps / 1000}
            for network in ("vit", "resnet") for how in ("adamw", "muon") for steps in (500, 250)]
    (axes,) = optimizer.show({"summary": optimizer.summarise(runs)}).axes
    assert [line.get_label() for line in axes.lines] == ["ViT, AdamW", "ViT, Muon", "ResNet, AdamW", "ResNet, Muon"]
    for line in axes.lines:
        assert (list(line.get_xdata()), list(line.get_ydata())) == ([250, 500], [25.0, 50.0])
