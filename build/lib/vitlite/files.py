"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["written_whole"]


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Write beside ``path``, then rename: a reader, or a crash, sees the old file or the new, never half of one.

    Args:
        path: Where the file shall stand; its folder is made if needed.

    Yields:
        A temporary path in the same folder. Whatever is written there takes the place of ``path`` at the end of the
        block; if the block fails, it is removed and ``path`` stays as it was.

    Raises:
        OSError: If the file cannot be written, for lack of space or of rights; the message names it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with written_whole(path) as beside:
        ...     count = beside.write_text("all of it")
        >>> path.read_text()
        'all of it'
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.touch()
        mode = beside.stat().st_mode  # what the user's umask leaves; some writers make private files
        yield beside
        beside.chmod(mode)
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise OSError(
            error.errno, f"could not write {path} ({error.strerror or error}); what stood there before is untouched"
        ) from error
    finally:
        beside.unlink(missing_ok=True)
