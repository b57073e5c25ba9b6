"""A file is written whole or not at all."""

import contextlib
import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from vitlite.files import digest, held, sweep, try_writing, written_whole


def test_the_file_appears_at_the_end_of_the_block(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with written_whole(target) as beside:
        beside.write_text("half", encoding="utf-8")
        assert not target.exists()
    assert target.read_text("utf-8") == "half"
    assert [p.name for p in target.parent.iterdir()] == ["file.txt"]


def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old", encoding="utf-8")
    with contextlib.suppress(RuntimeError), written_whole(target) as beside:
        beside.write_text("half", encoding="utf-8")
        raise RuntimeError
    assert target.read_text("utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_no_space_left_is_said_and_the_old_file_stays(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old", encoding="utf-8")
    with (
        pytest.raises(OSError, match=r"could not write .*file.txt \(No space left on device\).*untouched"),
        written_whole(target),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert target.read_text("utf-8") == "old"


@pytest.fixture
def little_room():
    """No file may have more than 1,000 bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_writer_that_is_not_python_names_the_path_too(tmp_path, little_room):
    with (
        pytest.raises(OSError, match=r"could not write .*model\.safetensors \(.*File too large") as caught,
        written_whole(tmp_path / "model.safetensors") as beside,
    ):
        safetensors.torch.save_file({"weight": torch.zeros(10_000)}, beside)
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_what_went_wrong_first_is_told_also_where_cleaning_up_fails(tmp_path, monkeypatch):
    def gone(*_, **__):
        raise PermissionError(errno.EACCES, "cleaning up failed")

    monkeypatch.setattr(Path, "unlink", gone)
    with pytest.raises(ValueError, match="the true reason"), written_whole(tmp_path / "file.txt"):
        raise ValueError("the true reason")


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "far" / "file.txt")
    for text in ("new", "newer"):  # first it leads nowhere
        with written_whole(tmp_path / "link.txt") as beside:
            beside.write_text(text, encoding="utf-8")
        assert (tmp_path / "link.txt").is_symlink()
        assert (tmp_path / "far" / "file.txt").read_text("utf-8") == text


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f".a[1].txt.{ended.pid}.part"
    others = [f".a[1].txt.{os.getppid()}.part", ".a[1].txt.backup.part", f".b.txt.{ended.pid}.part", "a[1].txt.part"]
    for path in (left, *(tmp_path / name for name in others)):
        path.touch()
    with written_whole(tmp_path / "a[1].txt") as beside:
        assert not left.exists()
        beside.touch()
    sweep(tmp_path / "a[1].txt")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "a[1].txt"])


@pytest.mark.parametrize("place", ["folder", "file/under.txt", "/proc/nowhere/file.txt", "x" * 300])
def test_a_target_that_cannot_be_written_is_found_before_the_work(tmp_path, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"could not write .*(a folder stands there|Not a dir|exists|No such|too long)"):
        try_writing(tmp_path / place)
    with pytest.raises(OSError, match="could not write"), written_whole(tmp_path / place):
        pytest.fail("the work began")


def test_trying_leaves_nothing(tmp_path):
    try_writing(tmp_path / "new" / "file.txt")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_digest_tells_names_types_shapes_and_bits_apart():
    weights = torch.arange(4, dtype=torch.float32)
    states = [{"a": weights}, {"b": weights}, {"a": weights.view(2, 2)}, {"a": weights.view(torch.int32)}, {},
              {"a": weights.bfloat16()}, {"a": -weights}, {"a": weights, "c": torch.tensor(True)}, {"a": weights[:0]}]
    assert len({digest(state) for state in states} | {digest({"a": weights}, "more")}) == len(states) + 1
    turned = weights.view(2, 2).mT
    assert digest({"a": weights, "b": turned}) == digest({"b": turned.contiguous(), "a": weights})


def test_two_runs_do_not_write_one_file_and_the_advice_works(tmp_path):
    path = tmp_path / "new" / "run"
    with held(path):
        with pytest.raises(RuntimeError, match="run is in use by another run: wait for its end, or give"), held(path):
            pass
        with held(tmp_path / "another"):
            pass
    with held(path), contextlib.suppress(OSError):
        raise OSError
    with held(path):
        pass
    assert not list(path.parent.iterdir())


def test_a_killed_run_holds_nothing(tmp_path):
    program = "import os, sys\nfrom vitlite.files import held\nwith held(sys.argv[1]):\n    os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "run"], timeout=60).returncode == -9
    with held(tmp_path / "run"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_pipe_or_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match=rf"not write .*{name} \(a device or a pipe stands there: name a file\)"):
            try_writing(tmp_path / name)
        with pytest.raises(OSError, match="name a file"), written_whole(tmp_path / name):
            pass
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
