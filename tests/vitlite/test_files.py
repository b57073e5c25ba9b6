"""A file is written whole or not at all."""

import contextlib
import errno

import pytest

from vitlite.files import written_whole


def test_the_file_appears_at_the_end_of_the_block(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with written_whole(target) as beside:
        beside.write_text("half")
        assert not target.exists()
    assert target.read_text() == "half"
    assert [p.name for p in target.parent.iterdir()] == ["file.txt"]


def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with contextlib.suppress(RuntimeError), written_whole(target) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_no_space_left_is_said_and_the_old_file_stays(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with (
        pytest.raises(OSError, match=r"could not write .*file.txt \(No space left on device\).*untouched"),
        written_whole(target),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert target.read_text() == "old"
