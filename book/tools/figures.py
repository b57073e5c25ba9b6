"""The figure that stands for a chapter on the first page: the one whose cell has the tag ``cover``."""

import base64
import io
from pathlib import Path

from execute import read
from PIL import Image

TAG = "cover"
HEIGHT = 288  # pixels: twice that of a card


def covers(notebooks: Path, folder: Path) -> None:
    """Write the covers of all chapters of a folder as PNG files, each named as its chapter.

    Raises:
        ValueError: If a chapter has not one cell with the tag, or that cell has no stored picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(notebooks.glob("[0-9]*.ipynb")):
        pictures = [output.data["image/png"] for cell in read(path).cells if TAG in cell.metadata.get("tags", [])
                    for output in cell.outputs if "image/png" in output.get("data", {})]
        if len(pictures) != 1:
            raise ValueError(f"{path.name} has {len(pictures)} stored pictures in cells with the tag {TAG!r}; "
                             "expected one: give the tag to the cell whose figure stands for the chapter")
        with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as picture:
            picture.thumbnail((picture.width, HEIGHT))
            picture.save(folder / f"{path.stem}.png")
