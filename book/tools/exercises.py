"""Gather the exercises of all chapters, without their solutions, in one notebook: _build/exercises.ipynb."""

import re
from pathlib import Path

import nbformat
from execute import CHAPTERS, ROOT, read, tidy
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from stamp import first_cell, stamped

TARGET = ROOT / "_build/exercises.ipynb"
EXERCISE = re.compile(r"^([`:]{3,})\{exercise\} *(.*)\n:label: *(\S+)\n((?:.*\n)*?)\1$", re.MULTILINE)
TITLE = re.compile(r"# 0?(\d+) · (.+)")

INTRODUCTION = """# Exercises

All exercises of *Vision Transformers from the ground up*, without their solutions, which stand in the chapters. Many
use names of their chapter: the cell below its title runs the chapter down to the exercises, in about a minute."""

RUN = '''import json
import os
from pathlib import Path

from IPython.utils.capture import capture_output

if Path("../notebooks").is_dir():
    os.chdir("../notebooks")


def chapter(name):
    """Run the cells of a chapter down to its exercises, so that you have its names."""
    for cell in json.loads(Path(f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and "\\n## Exercises" in f"\\n{source}":
            break
        if cell["cell_type"] == "code":
            with capture_output():
                done = get_ipython().run_cell(source)
            if "raises-exception" not in cell["metadata"].get("tags", []):
                done.raise_error()'''


def exercises(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """The title and the text of each exercise of a chapter."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return [(title.strip(), plain(text.strip())) for _, title, _, text in EXERCISE.findall(prose)]


def plain(text: str) -> str:
    """A text of a page as any notebook shows it: without what only the book's pages understand."""
    text = re.sub(r"\{(?:term|ref|doc)\}`([^`<]+?)(?: <[^`]*>)?`", r"\1", text)
    return re.sub(r"\{cite:[pt]\}`([^`]+)`", lambda cited: "; ".join(map(named, cited[1].split(","))), text)


def named(key: str) -> str:
    """A paper by the name and the year in its key."""
    name, year = re.match(r"([a-z]+)(\d{4})", key.strip()).groups()
    return f"{name.capitalize()} {year}"


def gathered(folder: Path = CHAPTERS) -> nbformat.NotebookNode:
    """The exercises of all chapters of a folder, each with an empty cell for its answer."""
    chapters = [(path.stem, read(path)) for path in sorted(folder.glob("*.ipynb"))]
    cells = [new_code_cell(first_cell(*stamped(chapters[0][1]))), new_markdown_cell(INTRODUCTION), new_code_cell(RUN)]
    for name, notebook in chapters:
        first = next(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        number, title = TITLE.match(first).groups()
        cells += [new_markdown_cell(f"## {number} · [{title}](../notebooks/{name}.ipynb)"),
                  new_code_cell(f'chapter("{name}")')]
        for place, (heading, text) in enumerate(exercises(notebook), 1):
            cells += [new_markdown_cell(f"### {number}.{place} {heading}\n\n{text}"), new_code_cell("")]
    return tidy(new_notebook(cells=cells))


def write(target: Path = TARGET) -> None:
    """Write the notebook."""
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(gathered(), target)


if __name__ == "__main__":
    write()
    print(f"the exercises without solutions: {TARGET.relative_to(ROOT)}")
