"""Every public name has an example that runs, and a place on the page that lists them."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import vitlite
from experiments import records

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book/api.md"
# Pages with code that no build runs.
WITH_CODE = [page for page in (ROOT / "README.md", *sorted((ROOT / "book").glob("*.md")))
             if "```python" in page.read_text(encoding="utf-8")]
# What chapters and experiments have in common is documented like the library.
COMMON = ["families", "measure", "records", "scale", "statistics"]
MODULES = sorted(module.name for module in pkgutil.walk_packages(vitlite.__path__, "vitlite."))
MODULES += [f"experiments.{name}" for name in COMMON]
# Parts of a package whose public names the package hands out; the others hand out none.
PACKAGES = ("vitlite.analysis.", "vitlite.plots.", "vitlite.weights.")
INNER = {f"vitlite.{name}" for name in ("__main__", "checks", "files", "sealed", "train.average", "train.batches",
                                        "train.checkpoint", "train.history")}
INTERNAL = INNER | {name for name in MODULES if name.startswith(PACKAGES)}
PUBLIC = [name for name in MODULES if name not in INTERNAL]
# What the page says stands before every example.
BEFORE = {"Path": Path, "np": np, "torch": torch, "ViT": vitlite.ViT, "ViTConfig": vitlite.ViTConfig}

def public(module: str) -> dict:
    """The functions and classes that a module hands out; what else it does are constants, types and modules."""
    module = importlib.import_module(module)
    parts = {name: getattr(module, name) for name in module.__all__}
    return {name: part for name, part in parts.items() if inspect.isfunction(part) or inspect.isclass(part)}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name):
    part = importlib.import_module(name if name in PUBLIC else name.rpartition(".")[0])
    names = BEFORE | {public: getattr(part, public) for public in part.__all__}
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for example in finder.find(importlib.import_module(name), globs=names):
        runner.run(example)
    assert not runner.failures


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_the_code_on_a_page_runs(page):
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        exec(code, {})


def test_the_ten_calls_that_people_need_first_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^\|.*\| `([^`]+)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) == 11  # the imports too
    names = {"torch": torch}
    for line in lines:
        exec(line, names)
    assert len(names["maps"]) == names["model"].config.depth
    assert names["rollout"].isfinite().all()


@pytest.mark.parametrize("name", [name for name in PUBLIC if name.startswith("vitlite.")])
def test_every_public_name_has_an_example(name):
    parts = public(name)
    assert [part for part, what in parts.items() if not doctest.DocTestFinder().find(what, part)[0].examples] == []


def entries():
    """The works of the list of references, by key: the names of what is said of each."""
    text = (ROOT / "book/references.bib").read_text(encoding="utf-8")
    return {key: set(re.findall(r"^ *(\w+) *= *\{", body, re.MULTILINE))
            for key, body in re.findall(r"^@\w+\{([^,]+),\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)}


def test_every_reference_says_what_it_is_and_where():
    venues = {"booktitle", "journal", "institution", "publisher", "howpublished", "archiveprefix"}
    assert len(entries()) > 50
    for key, fields in entries().items():
        assert fields >= {"title", "author", "year"}, key
        assert fields & venues, f"{key}: where did it appear?"
        assert fields & {"eprint", "url", "doi"}, f"{key}: where can one read it?"


def test_every_reference_is_cited():
    pages = [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    groups = [group for page in pages for group in re.findall(r"\{cite:[pt]\}`([^`]+)`", page.read_text("utf-8"))]
    assert {key.strip() for group in groups for key in group.split(",")} == set(entries())


def test_the_paper_map_leaves_measured_numbers_to_the_records():
    text = (ROOT / "book/paper-map.md").read_text(encoding="utf-8")
    assert "{record}" not in text
    assert set(re.findall(r"#result-(\w+)\)", text)) <= set(records.names())


def test_every_public_name_is_on_the_page():
    listed = set(re.findall(r"automodule:: (\S+)\n   :members:", PAGE.read_text(encoding="utf-8")))
    missing = [f"{name}.{part}" for name in PUBLIC if name.startswith("vitlite.")
               for part, what in public(name).items() if not {name, what.__module__} & listed]
    assert not missing
