"""Several processes make one run: they follow one process's curve, and none waits for ever."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest
import safetensors.torch
import torch
from tiny import EVERYTHING, dropping, splits

from vitlite.__main__ import main
from vitlite.train import Trainer

# Two processes as torchrun would start them, forked off one that has loaded everything.
TWO = """
    import datetime, json, os, signal, sys, time
    import safetensors.torch, torch
    from tiny import EVERYTHING, dropping, splits
    from vitlite.train import Trainer, distributed, objectives

    def start(rank, work, port):
        pid = os.fork()
        if pid == 0:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                              MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
            try:
                with distributed.joined(torch.device("cpu"), datetime.timedelta(seconds=PATIENCE)) as world:
                    work(world)
            except Exception as error:
                print(error, file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        return pid

    def ends(work, port):
        pids = [start(rank, work, port) for rank in range(2)]
        code = os.waitpid(pids[0], 0)[1]
        os.kill(pids[1], signal.SIGKILL)
        return code, os.waitpid(pids[1], 0)[1]
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def in_two(tmp_path, program, patience=60) -> subprocess.CompletedProcess:
    program = f"import sys; sys.path[:0] = {sys.path!r}\nPATIENCE, PORT = {patience}, {free_port()}\n" + "".join(
        textwrap.dedent(part) for part in (TWO, program)
    )
    return subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, timeout=300)


def test_two_processes_follow_the_curve_of_one(tmp_path):
    done = in_two(tmp_path, """
        def work(world):
            net = dropping()
            checkpoint = "run.safetensors"
            heard = []
            history = Trainer(net, EVERYTHING, device="cpu", autocast=False, checkpoint=checkpoint,
                              callbacks=[lambda t, m: heard.append(m)]).fit(splits())
            assert bool(heard) == (world.rank == 0), "callbacks hear of the run once"
            if world.rank == 0:
                safetensors.torch.save_file(net.state_dict(), "two.safetensors")
                open("history.json", "w").write(json.dumps(history))

        pids = [start(rank, work, PORT) for rank in range(2)]
        sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids))
    """)
    assert done.returncode == 0, done.stderr
    one = dropping()
    history = Trainer(one, EVERYTHING, device="cpu", autocast=False).fit(splits())
    told = json.loads((tmp_path / "history.json").read_text())
    assert told["loss"] == pytest.approx(history["loss"], rel=1e-3)
    assert told["train_accuracy"] == pytest.approx(history["train_accuracy"], abs=0.02)
    assert told["val_loss"] == pytest.approx(history["val_loss"], rel=1e-3)
    two = safetensors.torch.load_file(tmp_path / "two.safetensors")
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(two[name], weight, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(("fate", "patience"), [("os.kill(os.getpid(), signal.SIGKILL)", 60), ("time.sleep(60)", 3)])
def test_a_process_that_dies_or_hangs_ends_the_run_with_a_message(tmp_path, fate, patience):
    done = in_two(tmp_path, f"""
        def work(world):
            steps = []
            def objective(net, images, targets):
                steps.append(1)
                if world.rank == 1 and len(steps) == 6:
                    {fate}
                return objectives.classify()(net, images, targets)
            recipe = EVERYTHING.replace(micro_batch=None)
            Trainer(dropping(), recipe, device="cpu", objective=objective, checkpoint="run.safetensors").fit(splits())

        sys.exit(os.waitstatus_to_exitcode(ends(work, PORT)[0]))
    """, patience)
    assert done.returncode == 1
    assert "process 0 of 2 lost the others at step 5: one of them died or is silent" in done.stderr
    assert "the same command resumes from run.safetensors" in done.stderr


def test_a_batch_that_does_not_fit_the_processes_is_refused(monkeypatch):
    trainer = Trainer(dropping(), EVERYTHING.replace(micro_batch=None), device="cpu")
    trainer.world = trainer.world._replace(size=3)
    with pytest.raises(ValueError, match="a batch of 16 images in pieces of 5 cannot be shared evenly by 3"):
        trainer.fit(splits())


def test_torchrun_trains_from_the_command_line(tmp_path):
    words = ["train", "--data", "scenes", "--image-size", "16", "--train-images", "64", "--steps", "4", "--embed-dim",
             "16", "--depth", "1", "--num-heads", "2", "--mlp-dim", "32", "--dropout", "0.1", "--batch-size", "16",
             "--micro-batch", "8", "--device", "cpu"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    both = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([*launch, "-m", "vitlite", *words, "two.safetensors"], cwd=tmp_path, env=both,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation accuracy") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["two.safetensors"]
    assert main([*words, str(tmp_path / "one.safetensors")]) == 0
    one, two = (safetensors.torch.load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-2, atol=1e-3)
