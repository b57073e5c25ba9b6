"""What is hung on a trainer hears what happens and changes nothing."""

import json

from matplotlib.figure import Figure
from tiny import same, trained

from vitlite.train.callbacks import history_file, live_plot


def test_the_history_can_be_watched_from_outside(tmp_path):
    path, seen = tmp_path / "run.json", []

    def watch(trainer, moment):
        if moment == "validate":
            seen.append(json.loads(path.read_text())["val_step"])

    _, history = trained(callbacks=[history_file(path), watch])
    assert seen == [[10], [10, 20], [10, 20, 30]]
    assert json.loads(path.read_text()) == history


def test_the_live_plot_draws_after_each_validation(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    monkeypatch.setattr("IPython.display.clear_output", lambda wait: shown.append("cleared"))
    net, _ = trained(callbacks=[live_plot])
    assert [type(each) for each in shown] == [str, Figure] * 3
    assert shown[-1].get_suptitle() == "Step 30 of 30" or shown[-1].axes[0].get_title() == "Step 30 of 30"
    assert same(net, trained()[0])


def test_moments_come_in_their_order():
    heard = []
    trained(callbacks=[lambda trainer, moment: heard.append((trainer.step, moment))])
    assert heard[:2] == [(1, "log"), (1, "step")]
    assert heard[-4:] == [(30, "log"), (30, "validate"), (30, "step"), (30, "end")]
