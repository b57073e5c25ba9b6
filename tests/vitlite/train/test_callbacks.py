"""What is hung on a trainer hears what happens and changes nothing."""

from tiny import same, trained


def test_moments_come_in_their_order():
    heard = []
    trained(callbacks=[lambda trainer, moment: heard.append((trainer.step, moment))])
    assert heard[:2] == [(1, "log"), (1, "step")]
    assert sum(moment == "step" for _, moment in heard) == 30
    assert heard[-4:] == [(30, "log"), (30, "validate"), (30, "step"), (30, "end")]


def test_a_callback_sees_the_history_grow_and_changes_nothing():
    seen = []

    def watch(trainer, moment):
        if moment == "validate":
            seen.append(list(trainer.history["val_step"]))

    net, history = trained(callbacks=[watch])
    assert seen == [[10], [10, 20], [10, 20, 30]]
    assert history["val_step"] == seen[-1]
    assert same(net, trained()[0])
