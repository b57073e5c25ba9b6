"""The form of the chapters: what holds of every notebook in git, before any of it is run."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book/tools"))

from execute import tidy  # noqa: E402
from stamp import is_stamped  # noqa: E402

CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WIDGETS = "application/vnd.jupyter.widget-state+json"
EXPLORER = 'class="vitlite-explorer"'  # how an interactive figure's HTML begins
MEGABYTE = 2**20
LONGEST_CELL = 15  # lines
LONGEST_LINE = 88  # characters: what a page can show
ABSOLUTE_PATH = re.compile(r"""(?<![\w.:/])/(?:home|root|Users|tmp|work|mnt|content|opt)/|[A-Z]:\\\\Users""")


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def chapter(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    """Each chapter, as it is stored."""
    notebook = nbformat.read(request.param, as_version=4)
    notebook.path = request.param
    return notebook


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def outputs(notebook: nbformat.NotebookNode, *kinds: str) -> list[nbformat.NotebookNode]:
    return [output for cell in code(notebook) for output in cell.outputs if output.output_type in kinds]


def test_there_are_chapters() -> None:
    assert CHAPTERS, "notebooks/ holds no chapter"


def test_the_contents_list_every_chapter() -> None:
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    listed = [entry["file"] for part in parts for entry in part["chapters"]]
    assert [f"notebooks/{path.stem}" for path in CHAPTERS] == [x for x in listed if x.startswith("notebooks/")]


def test_the_name_is_a_number_and_a_word(chapter: nbformat.NotebookNode) -> None:
    assert re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", chapter.path.name)


def test_the_first_cell_is_the_stamped_one(chapter: nbformat.NotebookNode) -> None:
    assert is_stamped(chapter), f"run `make stamp`: the first cell of {chapter.path.name} is another"


def test_the_parts_are_there(chapter: nbformat.NotebookNode) -> None:
    number = chapter.path.name[:2]
    first = next(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
    title, _, opening = first.partition("\n")
    assert re.match(rf"# {number} · \w", title), f"the title {title!r} should begin '# {number} · '"
    assert len(opening.split()) >= 20, "the opening is missing below the title"
    prose = "\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
    sections = re.findall(r"^## +(.+?) *$", prose, flags=re.MULTILINE)
    for section in ("In the paper", "Exercises", "Summary"):
        assert section in sections, f"no section '## {section}'"
    assert sections[-1] == "Summary"


def test_every_exercise_has_a_solution(chapter: nbformat.NotebookNode) -> None:
    prose = "\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
    asked = re.findall(r"^[`:]{3,}\{exercise(?:-start)?\}[^\n]*\n:label: *(\S+)", prose, flags=re.MULTILINE)
    solved = re.findall(r"^[`:]{3,}\{solution(?:-start)?\} *(\S+)", prose, flags=re.MULTILINE)
    assert 3 <= len(asked) <= 5
    assert sorted(asked) == sorted(solved)


def test_every_fence_is_closed_on_a_line_of_its_own(chapter: nbformat.NotebookNode) -> None:
    for cell in chapter.cells:
        if cell.cell_type == "markdown":
            opened = re.findall(r"^(`{3,}|:{3,})\{?\w", cell.source, flags=re.MULTILINE)
            closed = re.findall(r"^(`{3,}|:{3,})$", cell.source, flags=re.MULTILINE)
            assert sorted(opened) == sorted(closed), cell.source


def test_it_was_run_from_start_to_end(chapter: nbformat.NotebookNode) -> None:
    counts = [cell.execution_count for cell in code(chapter)]
    assert counts == list(range(1, len(counts) + 1)), "run `make execute`"


def test_it_is_stored_as_make_execute_stores_it(chapter: nbformat.NotebookNode) -> None:
    stored = chapter.path.read_text()
    assert stored.rstrip("\n") == nbformat.writes(tidy(nbformat.read(chapter.path, as_version=4))), "run `make execute`"


def test_colab_gets_the_weights_that_a_chapter_looks_into(chapter: nbformat.NotebookNode) -> None:
    source = "\n".join(cell.source for cell in code(chapter))
    assert "real.model(" not in source or "requirements-weights.txt" in source


def test_it_stored_no_error_and_no_warning(chapter: nbformat.NotebookNode) -> None:
    for cell in code(chapter):
        for output in cell.outputs:
            on_purpose = "raises-exception" in tags(cell)
            assert output.output_type != "error" or on_purpose, f"an error is stored below:\n{cell.source}"
            text = output.get("text", "")
            assert output.get("name") != "stderr", f"stderr is stored below:\n{cell.source}\n\n{text}"
            assert "Traceback (most recent call last)" not in text


def test_it_names_no_path_of_one_machine(chapter: nbformat.NotebookNode) -> None:
    for cell in chapter.cells:
        assert not ABSOLUTE_PATH.search(cell.source), cell.source
    for output in outputs(chapter, "stream", "execute_result", "display_data", "error"):
        for kind, text in {**output.get("data", {}), "text": output.get("text", "")}.items():
            if kind.startswith("text"):
                assert not (found := ABSOLUTE_PATH.search(text)), text[max(0, found.start() - 40) :][:120]
        assert not ABSOLUTE_PATH.search("\n".join(output.get("traceback", [])))


def test_every_picture_is_described(chapter: nbformat.NotebookNode) -> None:
    for cell in code(chapter):
        pictures = [kind for output in cell.outputs for kind in output.get("data", {}) if kind.startswith("image/")]
        if pictures:
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt.split()) >= 4, f"metadata.mystnb.image.alt should describe the picture below:\n{cell.source}"


def test_every_interactive_figure_is_described(chapter: nbformat.NotebookNode) -> None:
    for cell in code(chapter):
        shown = [output.data for output in cell.outputs if EXPLORER in output.get("data", {}).get("text/html", "")]
        if shown:
            assert "nbval-ignore-output" in tags(cell), f"the bytes of its values are compared below:\n{cell.source}"
        for data in shown:
            root = BeautifulSoup(data["text/html"], "html.parser").select_one(".vitlite-explorer")
            assert len(root["aria-description"].split()) >= 12
            assert root["aria-label"] in data["text/plain"]
            assert root["aria-description"] in data["text/plain"]


def test_its_widgets_can_be_shown_without_a_kernel(chapter: nbformat.NotebookNode) -> None:
    shown = {
        output.data["application/vnd.jupyter.widget-view+json"]["model_id"]
        for output in outputs(chapter, "display_data", "execute_result")
        if "application/vnd.jupyter.widget-view+json" in output.data
    }
    state = chapter.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {})
    assert shown <= set(state), "a widget is shown whose state is not stored: run `make execute`"
    assert "widgets" not in chapter.metadata or state, "widget state without a state breaks GitHub's view"


def test_none_of_its_cells_is_empty(chapter: nbformat.NotebookNode) -> None:
    assert all(cell.source.strip() for cell in chapter.cells)


def test_its_cells_are_short(chapter: nbformat.NotebookNode) -> None:
    for cell in code(chapter)[1:]:
        if not {"hide-input", "remove-input", "remove-cell"} & set(tags(cell)):
            lines = [line for line in cell.source.splitlines() if line.strip()]
            assert len(lines) <= LONGEST_CELL, f"{len(lines)} lines, not {LONGEST_CELL}:\n{cell.source}"


def test_its_lines_fit_a_page(chapter: nbformat.NotebookNode) -> None:
    for cell in code(chapter)[1:]:
        for line in cell.source.splitlines():
            assert len(line) <= LONGEST_LINE, f"{len(line)} characters, not {LONGEST_LINE}:\n{line}"


def test_it_is_small(chapter: nbformat.NotebookNode) -> None:
    size = chapter.path.stat().st_size / MEGABYTE
    assert size < 1.5, f"{chapter.path.name} has {size:.1f} MB; draw fewer pixels or colours"


def test_chapter_0_prints_the_file_that_it_uses() -> None:
    chapter = nbformat.read(ROOT / "notebooks/00_one_page.ipynb", as_version=4)
    prose = "\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
    printed = "\n\n\n".join(block.strip("\n") for block in re.findall(r"```python\n(.*?)\n```", prose, re.DOTALL))
    _, _, file = (ROOT / "notebooks/vit.py").read_text(encoding="utf-8").partition('"""\n\n')
    assert printed == file.rstrip("\n")
