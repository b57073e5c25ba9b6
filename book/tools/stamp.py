"""Write the first cell of every chapter: the text of first_cell.txt with the address and tag of _config.yml."""

import sys
from pathlib import Path
from string import Template

import nbformat
import yaml
from execute import CHAPTERS, ROOT, ChapterError, read, tidy, write

TAG = "remove-cell"  # the first cell is for the machine: the pages leave it out


def first_cell(settings: Path = ROOT / "_config.yml") -> str:
    """The source of a chapter's first cell, with the address and tag that the settings name."""
    repository = yaml.safe_load(settings.read_text(encoding="utf-8"))["repository"]
    template = (ROOT / "book/tools/first_cell.txt").read_text(encoding="utf-8").rstrip("\n")
    return Template(template).substitute(address=repository["url"], tag=repository["branch"])


def is_stamped(notebook: nbformat.NotebookNode) -> bool:
    """Whether a notebook's first cell is the one that the settings ask for."""
    cell = notebook.cells[0]
    return cell.cell_type == "code" and cell.source == first_cell() and TAG in cell.metadata.get("tags", [])


def stamp(notebook: nbformat.NotebookNode) -> None:
    """Put the first cell in place, over an older one if there is one."""
    if TAG in notebook.cells[0].metadata.get("tags", []):
        del notebook.cells[0]
    cell = nbformat.v4.new_code_cell(first_cell(), execution_count=1, metadata={"tags": [TAG]})
    notebook.cells.insert(0, cell)


def main() -> None:
    """Stamp every chapter that needs it, and tidy those that were edited, without running them."""
    for path in sorted(CHAPTERS.glob("*.ipynb")):
        notebook, before = read(path), path.read_bytes()
        if not is_stamped(notebook):
            stamp(notebook)
        write(tidy(notebook), path)
        if path.read_bytes() != before:
            print(f"stamped {path.name}")


if __name__ == "__main__":
    try:
        main()
    except ChapterError as error:
        sys.exit(str(error))
