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

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book/api.md"
# Pages with code that no build runs.
WITH_CODE = [page for page in (ROOT / "README.md", *sorted((ROOT / "book").glob("*.md")))
             if "```python" in page.read_text(encoding="utf-8")]  # fmt: skip
MODULES = sorted(module.name for module in pkgutil.walk_packages(vitlite.__path__, "vitlite."))
# Parts of a package whose public names the package hands out; the command line and the checks hand out none.
PACKAGES = ("vitlite.analysis.", "vitlite.plots.", "vitlite.weights.")
INTERNAL = {"vitlite.__main__", "vitlite.checks"} | {name for name in MODULES if name.startswith(PACKAGES)}
PUBLIC = [name for name in MODULES if name not in INTERNAL]
# What the page says stands before every example.
BEFORE = {"Path": Path, "np": np, "torch": torch, "ViT": vitlite.ViT, "ViTConfig": vitlite.ViTConfig}
# Modules whose names have no examples yet; an entry stands for all below it, and goes when they have.
LATER = ("vitlite.experiments",)
# Each experiment is a command; its card, not the page, says what it does.
NOT_ON_THE_PAGE = ("vitlite.experiments",)


def below(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


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


@pytest.mark.parametrize("name", PUBLIC)
def test_a_module_says_what_is_public(name):
    assert importlib.import_module(name).__all__


@pytest.mark.parametrize("name", [name for name in PUBLIC if not below(name, LATER)])
def test_every_public_name_has_an_example(name):
    parts = {part: what for part, what in public(name).items() if not below(what.__module__, LATER)}
    assert [part for part, what in parts.items() if not doctest.DocTestFinder().find(what, part)[0].examples] == []


def test_every_public_name_is_on_the_page():
    listed = set(re.findall(r"automodule:: (\S+)\n   :members:", PAGE.read_text(encoding="utf-8")))
    missing = [f"{name}.{part}" for name in PUBLIC if not below(name, NOT_ON_THE_PAGE)
               for part, what in public(name).items() if not {name, what.__module__} & listed]  # fmt: skip
    assert not missing


def test_nothing_is_exempt_that_is_not_there():
    assert all(any(below(name, (entry,)) for name in MODULES) for entry in (*LATER, *NOT_ON_THE_PAGE))
