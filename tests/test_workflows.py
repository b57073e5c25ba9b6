"""What a server runs for a fork, and the release: commands that exist, versions that agree, no right too many."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import vitlite

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book/tools"))

import compat  # noqa: E402

PATHS = sorted((ROOT / ".github/workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def workflow(path: Path) -> dict:
    return yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)  # which leaves the word `on` a word


def jobs() -> list[tuple[str, dict]]:
    return [(f"{path.name} {name}", job) for path in PATHS for name, job in workflow(path)["jobs"].items()]


def steps() -> list[tuple[str, dict]]:
    return [(name, step) for name, job in jobs() for step in job["steps"]]


def test_there_is_one_for_each_pull_request_and_one_for_each_week() -> None:
    triggers = {path.name: workflow(path)["on"] for path in PATHS}
    assert set(triggers) == {"book.yml", "newest.yml"}
    assert set(triggers["book.yml"]) == {"pull_request", "push"}  # pull_request_target would give strangers our rights
    assert triggers["book.yml"]["push"] == {"branches": ["main"]}
    assert set(triggers["newest.yml"]) == {"schedule", "workflow_dispatch"}


def test_every_command_is_a_target_that_exists() -> None:
    commands = [step["run"] for _, step in steps() if "run" in step]
    assert {"make install", "make test-notebooks", "make html", "make test-pages", "make test-newest"} <= set(commands)
    for command in commands:
        assert re.fullmatch(r"make [a-z-]+", command), f"{command!r} is no make target"
        assert command.removeprefix("make ") in TARGETS, f"{command} does not exist"


def test_every_target_says_what_it_does_and_is_no_file() -> None:
    told = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split())
    assert told == phony == TARGETS
    listed = subprocess.run(["make", "help"], cwd=ROOT, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
    assert {line.split()[1] for line in listed.splitlines() if line.startswith("make ")} == TARGETS


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_other_peoples_actions_are_pinned_by_commit(path: Path) -> None:
    used = re.findall(r"uses: *(.*)", path.read_text(encoding="utf-8"))
    assert used
    for line in used:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), f"{line} is not pinned"


def test_one_action_is_pinned_to_one_commit() -> None:
    pins: dict[str, set[str]] = {}
    for _, step in steps():
        if "uses" in step:
            name, _, commit = step["uses"].partition("@")
            pins.setdefault(name, set()).add(commit)
    assert all(len(commits) == 1 for commits in pins.values()), pins


def test_no_job_has_a_right_that_it_does_not_need() -> None:
    assert [workflow(path)["permissions"] for path in PATHS] == [{"contents": "read"}] * len(PATHS)
    assert {name: job["permissions"] for name, job in jobs() if "permissions" in job} == {
        "book.yml publish": {"pages": "write", "id-token": "write"}}
    for _, step in steps():
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] == "false"
    assert not any("secrets." in path.read_text(encoding="utf-8") for path in PATHS)


def test_only_main_is_published_and_only_when_all_is_green() -> None:
    publish = dict(jobs())["book.yml publish"]
    assert publish["needs"] == ["chapters", "pages"]
    upload = next(step for _, step in steps() if "upload-pages" in step.get("uses", ""))
    for part in (publish, upload):
        assert part["if"] == "github.event_name == 'push' && github.ref == 'refs/heads/main'"


def test_the_kept_environment_depends_on_files_that_exist() -> None:
    keys = [step["with"]["key"] for _, step in steps() if step.get("uses", "").startswith("actions/cache")]
    assert len(keys) == 2
    assert len(set(keys)) == 1  # the second job finds what the first one made
    names = re.findall(r"'([^']+)'", keys[0])
    assert [name for name in names if not (ROOT / name).is_file()] == []
    installed = re.search(r"^\$\(INSTALLED\): (.*)$", MAKEFILE, re.MULTILINE)[1].split()
    assert set(installed) <= set(names)


def imported(path: Path) -> set[str]:
    return set(re.findall(r"^(?:import|from) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_other_versions_are_tested_with_all_that_the_tests_import() -> None:
    left_out = [word.removeprefix("--ignore-glob=") for word in compat.TESTS if word.startswith("--ignore-glob=")]
    files = [path for path in (ROOT / "tests/vitlite").rglob("test_*.py") if not any(map(path.match, left_out))]
    assert len(files) > 20
    given = {re.match(r"[\w-]+", name)[0].lower() for name in (*compat.NEEDED, *compat.TESTERS)}
    ours = {"vitlite", "experiments", "tests", "benchmarks", "tiny"}
    others = set().union(*map(imported, files)) - set(sys.stdlib_module_names) - ours
    assert {{"PIL": "pillow", "yaml": "pyyaml"}.get(name, name) for name in others} <= given


def test_the_oldest_versions_are_those_that_the_metadata_names() -> None:
    floor = next(line.partition(">=")[2] for line in PROJECT["dependencies"] if line.startswith("torch>"))
    assert [line for line in compat.SETS["oldest"] if line.startswith("torch==")] == [f"torch=={floor}"]


def test_what_was_tried_and_what_was_not_is_in_the_summary_of_the_job(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compat, "pythons", lambda: {"3.11": "one", "3.12": "another"})
    monkeypatch.setattr(compat, "tried", lambda name, version, python, tests: (version == "3.12", f"tried {python}"))
    monkeypatch.setattr(sys, "argv", ["compat.py", "oldest", "--all"])
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    with pytest.raises(SystemExit) as stop:
        compat.main()
    assert stop.value.code  # one of them failed
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    for line in ("3.11  tried one", "3.12  tried another", "3.13  not tried: this machine has no such Python"):
        assert line in summary


def test_the_versions_of_the_release_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)[1]
    assert PROJECT["version"] == vitlite.__version__ == citation["version"] == newest
