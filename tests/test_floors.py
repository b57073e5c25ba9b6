"""The house has floors: no file imports from a floor above its own, and none in a circle, whether it runs or not."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from experiments.runner import TOOLS

ROOT = Path(__file__).resolve().parents[1]
# The rooms of the library from the ground up, by the first part of a file's name.
FLOORS = [
    {"checks", "files"},
    {"analysis", "data", "plots", "position", "sealed"},
    {"config", "explore"},
    {"model"},
    {"cost"},
    {"resnet"},
    {"dino", "hybrid", "mae", "masked"},
    {"weights"},
    {"train"},
    {"__main__"},
]
# What the experiments share. Everything else in their room is an experiment or a part of one, which may use another.
SHARED = TOOLS - {"__main__"}


def graph(package: Path) -> dict[str, set[str]]:
    """Each file of a package by its dotted name, and the files of the package that it imports."""
    paths = {".".join(path.relative_to(package).with_suffix("").parts): path for path in package.rglob("*.py")}
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items() if name != "__init__"}
    return {name: imports(path.read_text(encoding="utf-8"), package.name, paths) for name, path in paths.items()}


def imports(source: str, package: str, known: dict) -> set[str]:
    """The files of the package that this code imports, wherever it does: on top, in a function, for types alone."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: write {package}'s imports in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    names = {name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}.")}
    names = {"model" if name in ("ViT", "ViTConfig") else name for name in names}  # which vitlite hands out
    return {name if name in known else name.rpartition(".")[0] for name in names} & set(known)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The files of a circle of imports, the first one again at the end; none if there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


LIBRARY, EXPERIMENTS = graph(ROOT / "vitlite"), graph(ROOT / "experiments")


def floor(name: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if name.split(".")[0] in rooms)


def imported(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    return [(name, other) for name, others in graph.items() for other in others]


def test_every_room_has_a_floor():
    assert {name.split(".")[0] for name in LIBRARY} == set.union(*FLOORS)
    assert set(EXPERIMENTS) > SHARED


def test_no_import_runs_upwards():
    assert [pair for pair in imported(LIBRARY) if floor(pair[1]) > floor(pair[0])] == []


def test_rooms_on_one_floor_do_not_import_each_other():
    across = [(name, other) for name, other in imported(LIBRARY) if floor(other) == floor(name)]
    assert [(name, other) for name, other in across if other.split(".")[0] != name.split(".")[0]] == []


def test_analysis_data_and_plots_know_tensors_and_no_model():
    for room, wanted in (("analysis", {"checks"}), ("data", {"checks", "files"}), ("plots", {"checks"})):
        others = {other for name, other in imported(LIBRARY) if name.split(".")[0] == room}
        assert {other for other in others if other.split(".")[0] != room} == wanted


def test_what_experiments_share_knows_none_of_them():
    assert [(name, other) for name, other in imported(EXPERIMENTS) if name in SHARED and other not in SHARED] == []


def test_nothing_imports_the_command_line():
    assert "__main__" not in {other for _, other in imported(LIBRARY) + imported(EXPERIMENTS)}


def test_no_files_import_each_other_in_a_circle():
    assert circle(LIBRARY) == []
    assert circle(EXPERIMENTS) == []


def test_a_circle_is_seen():
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_a_circle_is_seen_behind_types_and_inside_functions(tmp_path):
    package = tmp_path / "house"
    (package / "room").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "room/__init__.py").touch()
    loop = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.room.loop import Loop\n"
    (package / "room/parts.py").write_text(loop)
    (package / "room/loop.py").write_text("def run():\n    from house.room import parts\n")
    assert graph(package) == {"room": set(), "room.loop": {"room.parts"}, "room.parts": {"room.loop"}}
    assert set(circle(graph(package))) == {"room.loop", "room.parts"}


def test_the_check_sees_imports():
    assert "model" in LIBRARY["weights.shared"]
    assert "position" in LIBRARY["model"]
    assert {"data.datasets", "train.distributed", "train.recipes"} <= LIBRARY["train.trainer"]
    assert "measure" in EXPERIMENTS["data_size"]


def test_the_library_does_not_know_the_book():
    for path in (ROOT / "vitlite").rglob("*.py"):
        code = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(?:import|from)\s+experiments\b", code, re.MULTILINE), path.name
