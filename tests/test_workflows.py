"""What a server runs for a fork, and the release: commands that exist, versions that agree, no right too many."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import vitlite

ROOT = Path(__file__).resolve().parents[1]
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


def test_the_versions_of_the_release_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)[1]
    assert PROJECT["version"] == vitlite.__version__ == citation["version"] == newest
