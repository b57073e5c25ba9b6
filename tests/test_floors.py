"""The house has floors: no module imports from a floor above its own, and none in a circle."""

import ast
from pathlib import Path

import vitlite

PACKAGE = Path(vitlite.__file__).parent
# From the ground up; what is not named stands on its own floor's first matching prefix.
FLOORS = [
    {"analysis", "checks", "files", "plots"},
    {"data", "explore", "position"},
    {"config"},
    {"model"},
    {"cost"},
    {"resnet"},
    {"hybrid", "masked"},
    {"weights"},
    {"train"},
    {"__main__"},
]


def floor(module: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if module.split(".")[0] in rooms)


def modules() -> dict[str, set[str]]:
    """Each module with the vitlite modules it imports."""
    known = {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in PACKAGE.rglob("*.py")}
    return {name: imports(path, name) for name, path in known.items() if name != "__init__"}


def imports(path: Path, name: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("vitlite.") for alias in node.names if alias.name.startswith("vitlite.")}
        elif isinstance(node, ast.ImportFrom) and node.level:
            room = name.split(".")[0]
            found |= {f"{room}.{node.module or alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "vitlite":
            found |= {"model" if alias.name in ("ViT", "ViTConfig") else alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vitlite."):
            found |= {node.module.removeprefix("vitlite.")}
    return found


def test_every_module_has_a_floor():
    rooms = set.union(*FLOORS)
    assert {name.split(".")[0] for name in modules()} == rooms


def test_no_import_runs_upwards():
    upwards = [
        f"{name} imports {other}"
        for name, others in modules().items()
        for other in others
        if floor(other) > floor(name)
    ]
    assert not upwards


def test_rooms_on_one_floor_do_not_import_each_other():
    across = [
        f"{name} imports {other}"
        for name, others in modules().items()
        for other in others
        if floor(other) == floor(name) and other.split(".")[0] != name.split(".")[0]
    ]
    assert not across


def test_the_check_sees_imports():
    found = modules()
    assert "model" in found["weights.shared"]
    assert "position" in found["model"]
    assert any(other.startswith("data") for other in found["train.trainer"])


def test_the_library_does_not_know_the_book():
    for path in PACKAGE.rglob("*.py"):
        assert "experiments" not in imported(path), f"{path.name} imports the book's experiments"


def imported(path: Path) -> set[str]:
    """The packages a file imports, by their first name."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names}
