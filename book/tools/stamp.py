"""Write the first cell of every chapter: the text of first_cell.txt with the address and tag to fetch the book from.

They are those that _config.yml names; else the origin of this checkout, if that is an https or ssh address; else those
that stand in the chapter.
"""

import re
import subprocess
import sys
from pathlib import Path
from string import Template

import nbformat
import yaml
from execute import CHAPTERS, ROOT, ChapterError, read, tidy, write

TAG = "remove-cell"  # the first cell is for the machine: the pages leave it out
SETTINGS = ROOT / "_config.yml"
STAMP = re.compile(r'^ADDRESS, TAG = "(.*)", "(.*)"$', re.MULTILINE)
# Host and path of an address: over https, with ssh in front, and as ssh is used to write it.
HTTPS = re.compile(r"https://(?:[^/@]*@)?([\w.:-]+/[\w.~/+-]+)")
SSH = re.compile(r"ssh://(?:[^/@]*@)?([\w.-]+)(?::\d+)?/([\w.~/+-]+)|[\w.-]+@([\w.-]+):([\w.~+-][\w.~/+-]*)")

Source = tuple[str, str]  # the address of a repository and a tag or branch in it; nothing for its default branch


def first_cell(address: str = "", tag: str = "") -> str:
    """The source of a chapter's first cell, with an address and a tag."""
    template = (ROOT / "book/tools/first_cell.txt").read_text(encoding="utf-8").rstrip("\n")
    return Template(template).substitute(address=address, tag=tag)


def named(settings: Path = SETTINGS) -> Source:
    """What the settings name."""
    repository = yaml.safe_load(settings.read_text(encoding="utf-8"))["repository"]
    return repository["url"], repository["branch"]


def origin(folder: Path = ROOT) -> Source:
    """Where a checkout comes from, if others can fetch it from there, and that repository's main branch."""
    address = public(git(folder, "remote", "get-url", "origin"))
    head = git(folder, "symbolic-ref", "--short", "refs/remotes/origin/HEAD")
    return (address, head.removeprefix("origin/")) if address else ("", "")


def known() -> Source:
    """What the settings name, else the origin; nothing if neither can be used."""
    settings = named()
    return settings if settings[0] else origin()


def public(address: str) -> str:
    """An https or ssh address as anyone can use it, without user and password; of any other, as a path, nothing."""
    if found := HTTPS.fullmatch(address):
        return f"https://{found[1]}"
    if found := SSH.fullmatch(address):
        return f"https://{found[1] or found[3]}/{found[2] or found[4]}"
    return ""


def git(folder: Path, *words: str) -> str:
    """What git answers; nothing where it is missing, or has no answer."""
    try:
        run = subprocess.run(["git", "-C", folder, *words], check=False, capture_output=True, encoding="utf-8")
    except OSError:
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""


def stamped(notebook: nbformat.NotebookNode) -> Source:
    """Address and tag that stand in a chapter's first cell."""
    found = STAMP.search(notebook.cells[0].source)
    return (found[1], found[2]) if found else ("", "")


def is_stamped(notebook: nbformat.NotebookNode, source: Source | None = None) -> bool:
    """Whether a chapter has its first cell, with what the settings name; if they name nothing, with any address."""
    if source is None:
        settings = named()
        source = settings if settings[0] else stamped(notebook)
    cell = notebook.cells[0]
    return cell.cell_type == "code" and cell.source == first_cell(*source) and TAG in cell.metadata.get("tags", [])


def stamp(notebook: nbformat.NotebookNode, source: Source = ("", "")) -> None:
    """Put the first cell in place, over an older one if there is one."""
    if TAG in notebook.cells[0].metadata.get("tags", []):
        del notebook.cells[0]
    cell = nbformat.v4.new_code_cell(first_cell(*source), execution_count=1, metadata={"tags": [TAG]})
    notebook.cells.insert(0, cell)


def main() -> None:
    """Stamp every chapter that needs it, and tidy those that were edited, without running them."""
    address = known()
    for path in sorted(CHAPTERS.glob("*.ipynb")):
        notebook, before = read(path), path.read_bytes()
        source = address if address[0] else stamped(notebook)
        if not is_stamped(notebook, source):
            stamp(notebook, source)
        write(tidy(notebook), path)
        if path.read_bytes() != before:
            print(f"stamped {path.name}")


if __name__ == "__main__":
    try:
        main()
    except ChapterError as error:
        sys.exit(str(error))
