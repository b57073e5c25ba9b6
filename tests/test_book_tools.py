"""The book's tools: the first cell of a chapter, running chapters, and what is left of them afterwards."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "book/tools"), str(ROOT / "book/_ext")]

import build  # noqa: E402
import execute  # noqa: E402
import exercises  # noqa: E402
import figures  # noqa: E402
import lighten  # noqa: E402
import results  # noqa: E402
import smoke  # noqa: E402
import stamp  # noqa: E402
import vitbook  # noqa: E402
import workers  # noqa: E402

from experiments import records  # noqa: E402

code_cell, notebook_of = nbformat.v4.new_code_cell, nbformat.v4.new_notebook
WIDGETS = "application/vnd.jupyter.widget-state+json"


# ---------------------------------------------------------------- the first cell


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository on this machine, with a library in it, and a tag that is not its newest commit."""
    repository = tmp_path / "repository"
    (repository / "notebooks").mkdir(parents=True)
    (repository / "notebooks/here.txt").write_text("")
    commit(repository, "tagged")
    subprocess.run(["git", "-C", str(repository), "tag", "v1"], check=True)
    commit(repository, "newest")
    return repository


def commit(repository: Path, origin: str, package: str = "vitlite") -> None:
    """Commit a package that says where it comes from."""
    (repository / package).mkdir(parents=True, exist_ok=True)
    (repository / package / "__init__.py").write_text(f"ORIGIN = {origin!r}")
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", origin]):
        subprocess.run([*git, *command], check=True)


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """The empty folder that a notebook is opened in."""
    folder = tmp_path / "content"
    folder.mkdir()
    return folder


WHERE = "import vitlite; print(vitlite.ORIGIN, Path('here.txt').exists())"


def run_first_cell(cell: str, folder: Path, *, colab: bool = True, environment: dict[str, str] | None = None,
                   answer: str | None = None) -> subprocess.CompletedProcess:
    """Run the cell in a folder, as a Python that has no vitlite installed, and say which one it found."""
    hide = "import sys, types\nsys.meta_path = [x for x in sys.meta_path if 'editable' not in repr(x)]\n"
    hide += f"sys.path = [x for x in sys.path if x not in ('', {str(ROOT)!r})]\n"
    pretend = "sys.modules['google.colab'] = types.ModuleType('google.colab')\n" if colab else ""
    program = f"{hide}{pretend}{cell}\n{WHERE}"
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True,
                          input=answer, env={**os.environ, "VITLITE_REPOSITORY": "", **(environment or {})})


def test_colab_fetches_the_book_at_its_tag(repository: Path, content: Path) -> None:
    for _ in range(2):  # a runtime that was restarted finds the clone in place
        run = run_first_cell(stamp.first_cell(repository.as_uri(), "v1"), content)
        assert run.stdout == "tagged True\n", run.stderr


def test_colab_keeps_what_is_installed(repository: Path, content: Path) -> None:
    """A package that a chapter installs may not bring another version of one that is there."""
    more = "\nprint(subprocess.run([sys.executable, '-m', 'pip', 'install', '--no-index', 'numpy==1.0'],"
    more += " capture_output=True).stderr)"
    run = run_first_cell(stamp.first_cell(repository.as_uri(), "v1") + more, content)
    assert "conflicting dependencies" in run.stdout, run.stderr
    held = (content / "vit-book/held.tmp").read_text(encoding="utf-8")
    assert re.search(r"^numpy==[\d.]+$", held, re.MULTILINE)


@pytest.mark.parametrize("half", ["vit-book", "vit-book.part"])
def test_colab_completes_a_clone_that_was_interrupted(repository: Path, content: Path, half: str) -> None:
    (content / half / ".git").mkdir(parents=True)
    run = run_first_cell(stamp.first_cell(repository.as_uri(), "v1"), content)
    assert run.stdout == "tagged True\n", run.stderr
    assert [path.name for path in content.iterdir()] == ["vit-book"]


def test_colab_takes_the_address_from_the_environment(repository: Path, content: Path) -> None:
    run = run_first_cell(stamp.first_cell(), content, environment={"VITLITE_REPOSITORY": repository.as_uri()})
    assert run.stdout == "newest True\n", run.stderr


def test_colab_asks_once_for_an_address_and_says_what_to_paste(repository: Path, content: Path) -> None:
    run = run_first_cell(stamp.first_cell(), content, answer=f" {repository.as_uri()}\n")
    assert run.stdout.startswith("Where is the book? Paste the https address of its repository"), run.stderr
    assert run.stdout.endswith("newest True\n")
    assert run.stdout.count("Where is the book?") == 1


def test_colab_asks_where_the_address_that_is_stamped_is_gone(repository: Path, content: Path) -> None:
    gone = repository.with_name("gone").as_uri()
    run = run_first_cell(stamp.first_cell(gone, "v1"), content, answer=f"{repository.as_uri()}\n")
    assert f"{gone} cannot be fetched" in run.stdout
    assert run.stdout.endswith("newest True\n"), run.stderr


@pytest.mark.parametrize("prefix", ["", "vit-book-main/"])
@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_colab_takes_an_archive_that_was_uploaded(repository: Path, content: Path, form: str, prefix: str) -> None:
    words = ["git", "-C", str(repository), "archive", f"--prefix={prefix}", "-o", str(content / f"book.{form}"), "v1"]
    subprocess.run(words, check=True)
    (content / f"another.{form}").write_bytes((content / f"book.{form}").read_bytes()[:100])  # an upload under way
    shutil.make_archive(str(content / "photographs"), "zip", repository / "notebooks")
    run = run_first_cell(stamp.first_cell(), content)
    assert run.stdout.startswith(f"another.{form} cannot be read"), run.stderr
    assert run.stdout.endswith("tagged True\n")
    assert "Where" not in run.stdout


@pytest.mark.parametrize(("answer", "message"), [
    ("\n", "the book is not here yet: run this cell again"),
    ("file:///nowhere\n", "the book is not here yet: run this cell again"),
    ("ANOTHER\n", "what was fetched is not the book, for it has no folder vitlite"),
])
def test_colab_without_the_book_says_what_to_do(tmp_path: Path, content: Path, answer: str, message: str) -> None:
    another = tmp_path / "another"
    commit(another, "another", "tool")
    run = run_first_cell(stamp.first_cell(), content, answer=answer.replace("ANOTHER", another.as_uri()))
    assert f"RuntimeError: {message}" in run.stderr


@pytest.mark.parametrize("colab", [False, True])
def test_the_library_beside_the_notebook_is_found(repository: Path, colab: bool) -> None:
    run = run_first_cell(stamp.first_cell(), repository / "notebooks", colab=colab)
    assert run.stdout == "newest True\n", run.stderr


@pytest.mark.parametrize(("address", "public"), [
    ("https://code.example.org/reader/vit-book.git", "https://code.example.org/reader/vit-book.git"),
    ("https://reader:secret@code.example.org:8443/vit-book", "https://code.example.org:8443/vit-book"),
    ("git@code.example.org:reader/vit-book.git", "https://code.example.org/reader/vit-book.git"),
    ("ssh://git@code.example.org:2222/reader/vit-book.git", "https://code.example.org/reader/vit-book.git"),
    ("/home/reader/vit-book", ""), ("../vit-book", ""), ("C:/vit-book", ""), ("file:///home/reader/vit-book", ""),
    ('https://code.example.org/a"; import os', ""), ("", ""),
])
def test_the_address_of_the_origin_is_stamped_if_others_can_use_it(tmp_path: Path, address: str, public: str) -> None:
    commit(tmp_path, "any")
    git = ["git", "-C", str(tmp_path)]
    if address:
        subprocess.run([*git, "remote", "add", "origin", address], check=True)
        subprocess.run([*git, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/trunk"], check=True)
    assert stamp.origin(tmp_path) == (public, "trunk" if public else "")


def test_what_the_settings_name_goes_before_all_else(tmp_path: Path) -> None:
    settings = tmp_path / "_config.yml"
    settings.write_text("repository: {url: 'https://code.example.org/book', branch: v2}")
    assert stamp.named(settings) == ("https://code.example.org/book", "v2")
    settings.write_text("repository: {url: '', branch: ''}")
    assert stamp.origin(tmp_path) == ("", "")


def test_a_fork_that_stamped_its_own_address_is_stamped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a fork had to change the settings too before its tests are green."""
    monkeypatch.setattr(stamp, "named", lambda: ("", ""))
    notebook = notebook_of(cells=[code_cell("1 + 1")])
    stamp.stamp(notebook, ("https://code.example.org/fork", "main"))
    assert stamp.is_stamped(notebook)
    assert not stamp.is_stamped(notebook, ("https://code.example.org/other", "main"))
    assert stamp.stamped(notebook) == ("https://code.example.org/fork", "main")


def test_stamping_does_not_depend_on_the_locale_and_names_a_damaged_chapter(tmp_path: Path) -> None:
    chapters = tmp_path / "notebooks"
    chapters.mkdir()
    first = code_cell(stamp.first_cell(*stamp.known()), metadata={"tags": [stamp.TAG]})
    notebook = notebook_of(cells=[first, code_cell("'Größe 책'")])
    execute.write(execute.tidy(notebook), chapters / "a.ipynb")
    before = (chapters / "a.ipynb").read_bytes()
    program = f"import sys; sys.path[:0] = {sys.path!r}\nimport pathlib, runpy, execute\n"
    program += f"execute.CHAPTERS = pathlib.Path({str(chapters)!r})\nrunpy.run_module('stamp', run_name='__main__')"
    latin = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}
    words = [sys.executable, "-c", program]
    run = subprocess.run(words, env=latin, capture_output=True, encoding="utf-8")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert (chapters / "a.ipynb").read_bytes() == before
    (chapters / "a.ipynb").write_bytes(before[:-40])
    run = subprocess.run(words, env=latin, capture_output=True, encoding="utf-8")
    assert run.returncode == 1
    assert re.fullmatch(r".*a\.ipynb is no notebook \((.|\n)*\); restore it from git\n", run.stderr)


def without_encoding(source: str) -> list[int]:
    """The lines of code that read or write text without naming its encoding."""
    lines = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call) or any(word.arg in ("encoding", None) for word in call.keywords):
            continue
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        given = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
        mode = next((v.value for v in given if isinstance(v, ast.Constant) and str(v.value)[:1] in "rwax"), None)
        if name == "open" and getattr(getattr(call.func, "value", None), "id", "") not in ("tarfile", "Image"):
            careless = "b" not in mode if mode else isinstance(call.func, ast.Name) or not given
        else:
            careless = (name == "read_text" and not call.args) or (name == "write_text" and len(call.args) < 2)
        if careless or any(word.arg in ("text", "universal_newlines") for word in call.keywords):
            lines.append(call.lineno)
    return lines


def test_every_text_file_is_opened_with_its_encoding() -> None:
    """Else what is read and written depends on the machine."""
    assert without_encoding("open(a)\nopen(a, 'w')\np.read_text()\np.open()\nrun(a, text=True)\np.write_text(a)") == [
        1, 2, 3, 4, 5, 6]
    paths = [path for folder in ("vitlite", "experiments", "benchmarks", "book")
             for path in (ROOT / folder).rglob("*.py")]
    assert [f"{path}:{line}" for path in paths for line in without_encoding(path.read_text("utf-8"))] == []


def test_stamping_puts_the_cell_first_once() -> None:
    notebook = notebook_of(cells=[code_cell("1 + 1")])
    assert not stamp.is_stamped(notebook)
    for _ in range(2):
        stamp.stamp(notebook, stamp.known())
    assert stamp.is_stamped(notebook)
    assert [cell.source for cell in notebook.cells[1:]] == ["1 + 1"]


# ---------------------------------------------------------------- commands, wherever the clone lies


def clone(folder: Path) -> Path:
    """The files that the commands need, and programs that only write down how they were called."""
    (folder / ".venv/bin").mkdir(parents=True)
    shutil.copytree(ROOT / "book/tools", folder / "book/tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("python", "ruff", "jupyter"):
        program = folder / ".venv/bin" / name
        program.write_text('#!/bin/sh\necho "$0 $*" >> calls.txt\necho 2\n', encoding="utf-8")
        program.chmod(0o755)
    for name in ("requirements.txt", "requirements-weights.txt", "constraints.txt", "pyproject.toml",
                 ".venv/.installed"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("place", ["My Drive/book", "내 드라이브/책 book"])
def test_every_command_works_where_a_path_has_spaces(tmp_path: Path, place: str) -> None:
    folder = clone(tmp_path / place)
    commands = {line.split(":")[0] for line in (ROOT / "Makefile").read_text("utf-8").splitlines() if ": ## " in line
                or "$(INSTALLED) ## " in line or "$(SITE) ## " in line}
    commands -= {"help", "install", "clean", "test", "audit", "lock"}  # the last two fetch their tool
    assert {"book", "execute", "lab", "lint", "stamp", "test-unit", "test-pages", "benchmark"} <= commands
    for command in sorted(commands):
        (folder / "calls.txt").unlink(missing_ok=True)
        run = subprocess.run(["make", command, f"PYTHON={folder}/.venv/bin/python"], cwd=folder, capture_output=True,
                             encoding="utf-8")
        assert run.returncode == 0, f"{command}: {run.stderr}"
        assert (folder / "calls.txt").read_text("utf-8").startswith(f"{folder}/.venv/bin/"), command


def test_every_pin_is_frozen_with_its_hashes() -> None:
    locked = re.split(r"\n(?=[a-z])", re.sub("#.*\n", "", (ROOT / "constraints.txt").read_text("utf-8"), flags=re.I))
    assert all("--hash=sha256:" in package for package in locked)
    pins = {package.split()[0].lower() for package in locked}
    asked = re.findall(r"^[^#\s]+", (ROOT / "requirements.txt").read_text("utf-8"), flags=re.MULTILINE)
    assert len(asked) > 30
    assert {pin.lower() for pin in asked} <= pins
    weights = re.sub("#.*\n", "", (ROOT / "requirements-weights.txt").read_text("utf-8"))
    assert "--hash=sha256:" in weights


@pytest.mark.parametrize(("says", "status", "message"), [
    ("No known vulnerabilities found", 0, "no known vulnerability in what constraints.txt pins\n"),
    ("Found 2 known vulnerabilities in 1 package\nName Version ID Fix\nx 1 CVE-1 2", 1,
     "Found 2 known vulnerabilities in 1 package\nName Version ID Fix\nx 1 CVE-1 2\nmake audit: raise these pins in "
     "constraints.txt (and requirements.txt) to the versions with the fix\n"),
    ("Traceback\nConnectionError: no name", 1, "make audit has found out nothing: it needs a network with the public "
     "lists of known vulnerabilities (ConnectionError: no name)\n"),
])
def test_an_audit_says_whether_something_was_found_or_nothing_looked_up(
    tmp_path: Path, says: str, status: int, message: str
) -> None:
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!/bin/sh\necho 'WARNING: hash them' >&2\necho '{says}' >&2\nexit {status}\n", encoding="utf-8")
    tool.chmod(0o755)
    run = subprocess.run(["sh", ROOT / "book/tools/audit.sh", tool], capture_output=True, encoding="utf-8")
    assert run.returncode == status
    assert run.stdout + run.stderr == message


def test_an_install_that_was_interrupted_is_completed(tmp_path: Path) -> None:
    folder = clone(tmp_path / "My Drive")
    shutil.rmtree(folder / ".venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    run = subprocess.run(["make", "install", f"PYTHON={sys.executable}"], cwd=folder, capture_output=True,
                         encoding="utf-8", env={**os.environ, "PIP_NO_INDEX": "1"})  # nothing is to be fetched
    assert "installing into .venv" in run.stdout
    assert "No module named pip" not in run.stdout + run.stderr
    subprocess.run([folder / ".venv/bin/python", "-m", "pip", "--version"], check=True, stdout=subprocess.DEVNULL)


# ---------------------------------------------------------------- running a chapter


def run(notebook: nbformat.NotebookNode) -> None:
    """Run a notebook as ``run_chapters`` does: in a thread that has no event loop yet (a browser's may run in ours)."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(execute.execute, notebook).result()


def test_running_twice_gives_the_same_bytes() -> None:
    source = "import ipywidgets\nipywidgets.IntSlider()"
    written = []
    for _ in range(2):
        notebook = notebook_of(cells=[code_cell(source), code_cell(source), code_cell("print(1)\nprint(2)")])
        run(notebook)
        written.append(nbformat.writes(execute.tidy(notebook)))
    assert written[0] == written[1]
    cells = nbformat.reads(written[0], as_version=4).cells
    assert len({cell.id for cell in cells}) == 3
    assert [output.text for output in cells[2].outputs] == ["1\n2\n"]


def test_chapters_run_at_quick_scale_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITLITE_SCALE", "full")
    notebook = notebook_of(
        cells=[code_cell("import os; os.environ['VITLITE_SCALE'], os.environ['CUDA_VISIBLE_DEVICES']")]
    )
    run(notebook)
    assert notebook.cells[0].outputs[0].data["text/plain"] == "('quick', '')"


def test_a_failing_cell_is_named() -> None:
    notebook = notebook_of(cells=[code_cell("1"), code_cell("1 / 0")])
    with pytest.raises(execute.ChapterError, match=r"cell 2 of 2: (.|\n)*ZeroDivisionError: division by zero"):
        run(notebook)


def test_tidying_leaves_nothing_that_changes_from_run_to_run() -> None:
    cell = code_cell("1", metadata={"execution": {"start": "now"}, "tags": ["hide-input"], "collapsed": True})
    notebook = notebook_of(
        cells=[cell], metadata={"language_info": {"name": "python", "version": "3"}, "widgets": {WIDGETS: {}}}
    )
    tidied = execute.tidy(notebook)
    assert tidied.cells[0].metadata == {"tags": ["hide-input"]}
    assert tidied.metadata == execute.NOTEBOOK_METADATA


def test_a_script_holds_the_code_and_survives_what_fails_on_purpose() -> None:
    cells = [code_cell("%matplotlib inline\nx = 1"), code_cell("1 / 0", metadata={"tags": ["raises-exception"]})]
    source = smoke.script(notebook_of(cells=[*cells, nbformat.v4.new_markdown_cell("# no code")]))
    found: dict = {}
    exec(source, found)
    assert found["x"] == 1


# ---------------------------------------------------------------- running all of them

WAIT = """
import pathlib, time
pathlib.Path("{}").touch()
until = time.monotonic() + 30
while not pathlib.Path("{}").exists():
    assert time.monotonic() < until, "the other chapter does not run"
    time.sleep(0.05)
"""
ALONE = "import os, ipywidgets\nprint(os.environ['OMP_NUM_THREADS'])\nipywidgets.IntSlider()"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of chapters, none so far, of which two run at a time; "long" and "short" were timed before."""
    folder = tmp_path / "chapters"
    folder.mkdir()
    timed = {"runs": [{"chapter": "short", "seconds": 3.0}, {"chapter": "long", "seconds": 70.0}]}
    (tmp_path / "costs.json").write_text(json.dumps(timed))
    monkeypatch.setattr(execute, "CHAPTERS", folder)
    monkeypatch.setattr(execute, "COSTS", tmp_path / "costs.json")
    monkeypatch.setattr(execute, "workers", lambda: 2)
    return folder


def write_chapter(folder: Path, name: str, *sources: str) -> None:
    nbformat.write(notebook_of(cells=[code_cell(source) for source in sources]), folder / f"{name}.ipynb")


@pytest.mark.parametrize(("free", "count"), [("100000000", 8), ("10000000", 3), ("1000000", 1), (None, 8)])
def test_as_many_chapters_as_cores_and_memory_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: str | None, count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(workers, "MEMINFO", tmp_path / "meminfo")
    if free:
        workers.MEMINFO.write_text(f"MemTotal: 200000000 kB\nMemAvailable:  {free} kB\nHugePages_Total:  0\n")
    assert workers.workers() == count


@pytest.mark.parametrize("text", ["", "[]", '{"runs": [{"seconds": 3.0}]}', '{"runs": 3}'])
def test_a_damaged_record_of_what_chapters_took_is_named(folder: Path, text: str) -> None:
    execute.COSTS.write_text(text)
    with pytest.raises(SystemExit, match=r"costs.json is no record of what chapters took \(.*restore it from git"):
        execute.longest_first([])


def test_the_longest_chapter_begins_and_one_never_timed_may_be_longer(folder: Path) -> None:
    paths = [folder / f"{name}.ipynb" for name in ("short", "new", "long")]
    assert [path.stem for path in execute.longest_first(paths)] == ["new", "long", "short"]


def test_chapters_run_side_by_side_and_a_failing_one_keeps_no_other(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_chapter(folder, "long", WAIT.format("one", "other"))
    write_chapter(folder, "short", "1", "1 / 0")
    write_chapter(folder, "new", WAIT.format("other", "one"))
    (failure,) = execute.run_chapters([], tmp_path / "done")
    assert failure.startswith("short, cell 2 of 2: ")
    assert sorted(path.name for path in (tmp_path / "done").iterdir()) == ["long.ipynb", "new.ipynb"]
    lines = sorted(capsys.readouterr().out.splitlines())
    assert [re.sub(r"\d+\.\d s", "SECONDS", line).split() for line in lines] == [
        ["long", "SECONDS"], ["new", "SECONDS"], ["short", "failed"]
    ]


def test_a_chapter_does_not_depend_on_how_many_run_beside_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("long", "short"):
        write_chapter(folder, name, ALONE)
    written = []
    for count in (1, 2):
        monkeypatch.setattr(execute, "workers", lambda count=count: count)
        assert execute.run_chapters([], tmp_path / str(count)) == []
        written.append({path.name: path.read_bytes() for path in (tmp_path / str(count)).iterdir()})
    assert written[0] == written[1]
    assert nbformat.reads(written[0]["long.ipynb"].decode(), as_version=4).cells[0].outputs[0].text == "1\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_every_kernel_and_leaves_the_chapters_alone(folder: Path, number: int) -> None:
    for name in ("long", "new", "short"):
        source = f"import os, pathlib, time\npathlib.Path('{name}.pid').write_text(str(os.getpid()))\ntime.sleep(60)"
        write_chapter(folder, name, source)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    program = f"import sys; sys.path[:0] = {sys.path!r}\nimport execute, pathlib\n"
    program += f"execute.CHAPTERS, execute.workers = pathlib.Path({str(folder)!r}), lambda: 2\n"
    # A job in the background ignores Ctrl-C, and its children inherit that.
    program += "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "execute.main()"
    running = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while len(pids := [path for path in folder.glob("*.pid") if path.read_text()]) < 2:
        assert time.monotonic() < until, "two chapters should have begun"
        time.sleep(0.1)
    running.send_signal(number)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 1
    assert errors.splitlines()[-1].startswith("stopped: each chapter is whole")
    for path in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)
    assert {path.name: path.read_bytes() for path in folder.glob("*[!d]")} == before


# ---------------------------------------------------------------- exercises without solutions

A_CHAPTER = ["# 07 · A title\n\nText.", "A table.\n\n## Exercises\n\n````{exercise} Build: one\n:label: ex-one\n"
             "Ask a {term}`value <values>` of\n{cite:t}`su2021,heo2024`.\n```python\n1\n```\n````\n\n"
             "````{solution} ex-one\n:class: dropdown\nSecret.\n````", "```{exercise} Two\n:label: ex-two\n\n$x$?\n```"]


def test_exercises_are_gathered_without_their_solutions(tmp_path: Path) -> None:
    title, first, second = map(nbformat.v4.new_markdown_cell, A_CHAPTER)
    cells = [code_cell("print('first')"), title, code_cell("here = 41"), first, code_cell("secret = 1"), second]
    nbformat.write(notebook_of(cells=cells), tmp_path / "07_title.ipynb")
    notebook = exercises.gathered(tmp_path)
    nbformat.validate(notebook)
    assert [cell.source for cell in notebook.cells[3:]] == [
        "## 7 · [A title](../notebooks/07_title.ipynb)", 'chapter("07_title")',
        "### 7.1 Build: one\n\nAsk a value of\nSu 2021; Heo 2024.\n```python\n1\n```", "", "### 7.2 Two\n\n$x$?", ""]
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "07_title.ipynb").rename(tmp_path / "notebooks/07_title.ipynb")
    (tmp_path / "_build").mkdir()
    tried = "\nassert here == 41 and 'secret' not in globals()"
    program = "\n".join([notebook.cells[2].source, notebook.cells[4].source, tried])
    script = f"from IPython import get_ipython\n{program}\nprint('it ran')"
    run = subprocess.run([sys.executable, "-m", "IPython", "--quick", "-c", script], cwd=tmp_path / "_build",
                         capture_output=True, encoding="utf-8")
    assert run.stdout.endswith("it ran\n"), run.stdout + run.stderr


def test_every_exercise_of_the_book_is_gathered() -> None:
    chapters = [path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("*.ipynb")]
    asked = sum(len(re.findall(r"[`:]{3,}\{exercise(?:-start)?\}", text)) for text in chapters)
    prose = [cell.source for cell in exercises.gathered().cells if cell.cell_type == "markdown"]
    assert sum(text.startswith("### ") for text in prose) == asked
    assert [text for text in prose if re.search(r"\{[a-z:]+\}`|^[`:]{3,}\{", text)] == []


# ---------------------------------------------------------------- numbers out of records


@pytest.fixture
def a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record by the name "one", beside those there are."""
    told = {"runs": [{"seed": 0, "images": 45_000}], "summary": {"flips, crops": 0.8377, "curve": [0.5, 0.25]}}
    read = records.read
    monkeypatch.setattr(records, "read", lambda name: told if name == "one" else read(name))


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("one/summary/flips, crops:.1%", "83.8\N{NO-BREAK SPACE}%"),
        ("one/summary/curve/1:.2f", "0.25"),
        ("one/runs/0/images:,d", "45,000"),
    ],
)
def test_a_page_prints_the_number_that_the_record_holds(a_record: None, address: str, text: str) -> None:
    assert vitbook.recorded(address) == text


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("one/summary/curve", "expected RECORD/KEY/...:FORMAT"),
        ("train_cifar11/runs/0/seed:d", "there is no record 'train_cifar11'; near it: train_cifar10"),
        ("one/summary/curves/0:.1f", "there is no 'curves', but flips, crops, curve"),
        ("one/runs/9/seed:d", "there is no '9', but 0"),
        ("one/runs/0/seed/0:d", "there is no '0', but nothing: a number stands there"),
        ("one/summary:.1%", "leads to a dict; expected a number"),
        ("one/summary/curve/0:d", "Unknown format code 'd'"),
    ],
)
def test_a_wrong_address_of_a_number_says_what_is_there(a_record: None, address: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        vitbook.recorded(address)


# ---------------------------------------------------------------- all results


def test_a_summary_becomes_tables_of_what_has_the_same_columns() -> None:
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6, "seeds": 3}
    summary = {"vit": {"1": {"accuracy": interval, "gain": None}, "seconds": 12_345.6}, "seeds": 3, "curve": [0.25, -1],
               "resnet": {"1": {"accuracy": interval | {"low": None, "high": None}, "gain": -0.03125}},
               "by_rate": [interval | {"rate": 0.1}]}
    count, text = results.tables(summary)
    assert count == 5
    assert text.replace("\u00a0", " ").split("\n\n") == [
        "|  | curve |\n|:--|--:|\n|  | 0.25, −1 |",
        "|  | seconds |\n|:--|--:|\n| vit | 12,346 |",
        "|  | accuracy | gain |\n|:--|--:|--:|\n| vit, 1 | 0.5 ± 0.1 | – |\n| resnet, 1 | 0.5 | −0.0312 |",
        "| by rate | result |\n|:--|--:|\n| rate | 0.1 |\n| result | 0.5 ± 0.1 |",
    ]


def test_every_record_is_on_the_page_of_all_results() -> None:
    page = results.page((ROOT / "book/all-results.md").read_text(encoding="utf-8"))
    assert [name for name in records.names() if f"\n(result-{name})=\n" not in page] == []
    for name in records.names():
        text = results.section(records.read(name))
        shown = re.sub(r"````\{dropdown\}.*?````", "folded", text, flags=re.DOTALL)
        assert len(shown) / 90 + shown.count("\n") < 45, f"{name} is longer than a screen"


# ---------------------------------------------------------------- addresses of old


def test_an_old_address_names_a_chapter_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    build.redirect(tmp_path)
    for old, new in build.MOVED.items():
        assert not (ROOT / old).with_suffix(".ipynb").exists()
        assert (ROOT / "notebooks" / new).with_suffix(".ipynb").is_file()
        assert f'url={new}"' in (tmp_path / old).read_text(encoding="utf-8")


# ---------------------------------------------------------------- lighter pages


def test_a_picture_is_packed_with_every_pixel_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lighten, "SMALL", 300)
    (tmp_path / "_images").mkdir()
    waves = np.add.outer(np.arange(300), np.arange(200)) % 251
    pixels = np.stack([waves, waves[::-1], 255 - waves], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "_images/a.png")
    Image.fromarray(pixels[:2, :2]).save(tmp_path / "_images/small.png")
    page = '<img src="../_images/a.png"><img src="../_images/small.png">'
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    lighten.pictures(tmp_path)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page.replace("a.png", "a.webp")
    assert sorted(path.name for path in (tmp_path / "_images").iterdir()) == ["a.webp", "small.png"]
    with Image.open(tmp_path / "_images/a.webp") as packed:
        assert np.array_equal(np.asarray(packed), pixels)


def test_icons_that_no_page_names_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "_static/scripts").mkdir(parents=True)
    script = tmp_path / "_static/scripts/fontawesome.js"
    outline = '[512,512,[128269,"search"],"f002","M1 2z"]'
    script.write_text(f'a={{sun:[1,2,[],"f1",["M0","M1"]],"list-ul":{outline},bars:{outline.replace("search", "x")}}}')
    page = '<i class="fa-solid fa-search"></i> <i class="fas fa-sun"></i>'
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    lighten.icons(tmp_path)
    assert script.read_text() == f'a={{sun:[1,2,[],"f1",["M0","M1"]],"list-ul":{outline},}}'


# ---------------------------------------------------------------- the first page


def test_every_chapter_has_one_cover(tmp_path: Path) -> None:
    figures.covers(ROOT / "notebooks", tmp_path)
    chapters = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    assert sorted(path.stem for path in tmp_path.iterdir()) == chapters
    page = (ROOT / "book/preface.md").read_text(encoding="utf-8")
    assert [name for name in chapters if f":link: ../notebooks/{name}\n" not in page] == []


def test_a_chapter_without_a_cover_is_named(tmp_path: Path) -> None:
    nbformat.write(notebook_of(cells=[code_cell("1", metadata={"tags": ["cover"]})]), tmp_path / "01_none.ipynb")
    with pytest.raises(ValueError, match=r"01_none.ipynb has 0 stored pictures .*give the tag"):
        figures.covers(tmp_path, tmp_path / "covers")
