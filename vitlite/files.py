"""Files that appear whole or not at all, one word for whatever a decoder throws, and what tensors hash to."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors
import torch
from torch import Tensor

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Write beside ``path``, then rename: a reader, or a crash, sees the old file or the new, never half of one.

    A symbolic link stays, and the file that it leads to is the one replaced. What a killed writer of the same file left
    half done is removed.

    Yields:
        A temporary path in the same folder, which is made if needed. Whatever is written there takes the place of
        ``path`` at the end of the block; if the block fails, it is removed and ``path`` stays as it was.
    """
    target = Path(os.path.realpath(path))
    with _part_of(target, path) as beside:
        mode = beside.stat().st_mode  # what the user's umask leaves; some writers make private files
        yield beside
        beside.chmod(mode)
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, target)


def try_writing(path: str | Path) -> None:
    """See that a file can be written at ``path``, before hours of work count on it, or raise the ``OSError``."""
    with _part_of(Path(os.path.realpath(path)), path):
        pass


@contextmanager
def _part_of(target: Path, path: str | Path) -> Iterator[Path]:
    """An empty file beside the target, gone at the end; trouble with writing names the path."""
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if target.exists() and not target.is_file():  # it would be gone
            there = "a folder" if target.is_dir() else "a device or a pipe"
            raise IsADirectoryError(errno.EISDIR, f"{there} stands there: name a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target)
        beside.touch()
        yield beside
    except (OSError, safetensors.SafetensorError) as error:
        found = re.search(r"os error (\d+)", str(error))  # a writer that is no Python has its own form
        code = getattr(error, "errno", None) or (int(found[1]) if found else errno.EIO)
        reason = getattr(error, "strerror", None) or error
        advice = "; free some space, or name another folder" if code == errno.ENOSPC else ""
        message = f"could not write {path} ({reason}); what stood there before is untouched{advice}"
        raise OSError(code, message) from error
    finally:
        with contextlib.suppress(OSError):  # what went wrong before is what to hear of
            beside.unlink(missing_ok=True)


@contextmanager
def held(path: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Be the only run that writes a file, for as long as the block lasts; a killed one no longer holds it.

    Where the system knows no such locks, nothing is held.

    Args:
        wait: Wait for the end of another run that holds it. Without it, such a run is a ``RuntimeError``.
    """
    target = Path(os.path.realpath(path))
    lock = target.with_name(f".{target.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        while fcntl is not None:
            file = stack.enter_context(open(lock, "ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                free = lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat())
            except (BlockingIOError, FileNotFoundError):  # the second: it was removed between two looks
                free = False
            except OSError:  # a file system without locks
                free = True
            if wait and not free:  # the one that held it has removed it: hold the next
                continue
            if not free:
                raise RuntimeError(f"{path} is in use by another run: wait for its end, or give this one another path")
            stack.callback(lock.unlink, missing_ok=True)  # before it is let go: the next one makes its own
            break
        yield


def sweep(path: str | Path) -> None:
    """Remove what killed writers of a file left half done beside it."""
    path = Path(path)
    for half in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        process = half.name.removeprefix(f".{path.name}.").removesuffix(".part")
        if process.isdecimal() and half.is_file() and not _alive(int(process)):
            with contextlib.suppress(OSError):
                half.unlink()


def _alive(process: int) -> bool:
    """Whether the process of that number is there, and may still be writing."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


@contextmanager
def decoding(path: str | Path, problem: str, advice: str) -> Iterator[None]:
    """Turn whatever a decoder throws into one ValueError: the file, what is wrong, and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # the system's own: no right to read, a disk that fails
            raise
        raise ValueError(f"{path} is {problem} ({error}); {advice}") from error
    except Exception as error:  # every parser has classes of its own, and damage leads anywhere
        cause = str(error).partition("\n")[0][:200] or type(error).__name__
        raise ValueError(f"{path} is {problem} ({cause}); {advice}") from error


def digest(tensors: Mapping[str, Tensor], more: str = "") -> str:
    """The SHA-256 of named tensors in any order, and of a text beside them: names, types, shapes, every bit."""
    total = hashlib.sha256(more.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy())
    return total.hexdigest()
