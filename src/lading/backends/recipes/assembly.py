"""Putting an engine environment together: a virtual environment, pip step by step, a check that the engine loads.

Every step may be repeated: killed at any moment, the next run finds what is whole, drops what is half, and goes on.
pip judges a wheel installed by its metadata directory alone; :func:`half_installed` compares it with the wheel's own
list of files, so that a wheel cut short is installed again and never taken for whole.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from lading.backends.recipes import RECIPES, Recipe, Step
from lading.backends.recipes import directory as directories
from lading.backends.recipes.child import Children, Outcome
from lading.backends.recipes.failure import Failure, PipFailure, StepFailed
from lading.backends.recipes.plan import step_text
from lading.errors import NotEnoughDisk
from lading.events import Note
from lading.units import format_bytes, format_seconds

SHIM = RECIPES.parent / "shim"
_READ_BYTES = 1 << 20
_INSTALL = ("install", "--no-deps", "--no-compile", "--require-hashes", "--only-binary", ":all:")
_DOWNLOAD = ("download", "--no-deps", "--only-binary", ":all:")
_FEW_RETRIES = ("--retries", "1")

#: What pip may be told by the user's environment: where to look and how to connect. Not what to install, and where to.
_PIP_SETTINGS = frozenset(
    f"PIP_{name}"
    for name in (
        *("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX", "TRUSTED_HOST", "CONFIG_FILE", "CACHE_DIR"),
        *("NO_CACHE_DIR", "CERT", "CLIENT_CERT", "PROXY", "TIMEOUT", "DEFAULT_TIMEOUT", "RETRIES", "KEYRING_PROVIDER"),
    )
)
_CHILD_SETTINGS = {
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
    "PIP_PROGRESS_BAR": "off",
    "PYTHONDONTWRITEBYTECODE": "1",  # the shim lies in Lading's own directory; byte code is a step of its own
}


def assemble(recipe: Recipe, path: Path, first_seen: Path, children: Children) -> None:
    """Make the environment of ``recipe`` at ``path``, or go on with the one begun there, up to its receipt.

    ``first_seen`` is the file that remembers the digests of wheels whose index publishes none. Raises StepFailed,
    NotEnoughDisk, Stopped.
    """
    directories.mark_unfinished(path, recipe.name, recipe.digest.hex)
    assembly = Assembly(recipe, path, first_seen, children)
    work: list[tuple[str, Callable[[], None]]] = [("Python environment", assembly.make_venv)]
    work += [(step_text(step), partial(assembly.install, step)) for step in recipe.steps]
    work += [("byte code", assembly.compile), ("loading the engine once", assembly.check)]
    began = time.monotonic()
    for number, (title, act) in enumerate(work, 1):
        started = time.monotonic()
        children.report(Note(f"{number}/{len(work)} {title}"))
        act()
        children.report(Note(f"{number}/{len(work)} done in {format_seconds(time.monotonic() - started)}"))
    shutil.rmtree(assembly.scratch)
    receipt = directories.Receipt(
        name=recipe.name,
        version=recipe.version,
        origin=recipe.origin,
        recipe=recipe.digest.hex,
        interpreter=directories.interpreter_of(path) or "",
        size_bytes=directories.size_of(path),
        seconds=round(time.monotonic() - began, 1),
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )
    directories.write_receipt(path, receipt)


def child_environ(environ: Mapping[str, str], scratch: Path, *, offline: bool) -> dict[str, str]:
    """What pip and the check inherit: no Python setting of the user's, and pip's only as far as :data:`_PIP_SETTINGS`.

    Temporary files go to ``scratch``: /tmp may be small, and lies on another disk than the one that was looked at.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith("PYTHON") and (not name.startswith("PIP_") or name in _PIP_SETTINGS)
    }
    forbidden = {"PIP_NO_INDEX": "1"} if offline else {}
    return {**kept, **_CHILD_SETTINGS, **forbidden, "TMPDIR": str(scratch)}


def half_installed(site_packages: Path) -> list[Path]:
    """What an interrupted pip left in an environment: metadata of wheels that are not whole, and what it moved away.

    A wheel is whole when every file of its list is there and has the listed size.
    """
    moved_away = sorted(site_packages.glob("~*"))
    return [*(each for each in sorted(site_packages.glob("*.dist-info")) if not _is_whole(each)), *moved_away]


def _is_whole(dist_info: Path) -> bool:
    try:
        with (dist_info / "RECORD").open(newline="", encoding="utf-8") as record:
            rows = [row for row in csv.reader(record) if len(row) == 3 and row[2]]
        # Byte code is ours to write again, even where a wheel brings some (numpy does).
        sizes = ((row[0], int(row[2])) for row in rows if not row[0].endswith(".pyc"))
        return all((dist_info.parent / name).stat().st_size == size for name, size in sizes)
    except (OSError, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class Assembly:
    """The steps of making one environment at ``path`` from ``recipe``, in the order of the methods; each repeatable."""

    recipe: Recipe
    path: Path
    first_seen: Path
    children: Children

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.path / "bin" / "python"

    @property
    def scratch(self) -> Path:
        """For temporary files; not part of the finished environment."""
        return self.path / directories.SCRATCH

    @property
    def _is_offline(self) -> bool:
        return "PIP_NO_INDEX" in self.children.environ

    def make_venv(self) -> None:
        """An environment with a working pip: the one that is there if it is whole, less what was cut short."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        packages = self._site_packages()
        halves = half_installed(packages) if packages else []
        if packages and not any(each.name.startswith("pip-") for each in halves) and self._has_pip():
            for each in halves:
                self._note(f"was cut short, is installed again: {_distribution(each)}")
                _delete(each)
            return
        self._clear()
        outcome = self.children.run("Python environment", [sys.executable, "-I", "-m", "venv", self.path])
        if outcome.returncode:
            raise self._venv_failed(outcome)

    def install(self, step: Step) -> None:
        """All wheels of ``step``, held to their digests."""
        if not step.is_hashed:
            self._install_first_seen(step)
            return
        failed = self._pip(step, _INSTALL, step.pins)
        may_ask = failed and failed.kind in (Failure.NO_WHEEL, Failure.NETWORK) and not self._is_offline
        if may_ask and step.second_index:
            self._note(f"{step.title}: not where pip is configured to look, asking {step.second_index}")
            second = (*_INSTALL, "--extra-index-url", step.second_index, *_FEW_RETRIES)
            failed = self._pip(step, second, step.pins)
        self._require_success(step, failed)

    def compile(self) -> None:
        """Byte code for every module, on all cores: the engine starts three interpreters, maybe as another user."""
        argv = ("-I", "-m", "compileall", "-q", "-j", "0", str(self._packages()))
        # The exit code says that some file did not compile: test data for other Pythons never does.
        self.children.run("byte code", [self.python, *argv])

    def check(self) -> None:
        """Raises StepFailed unless every wheel is whole, the engine has what it asks for, and it loads."""
        halves = ", ".join(map(_distribution, half_installed(self._packages())))
        if halves:
            raise self._broken(f"files are missing or cut short: {halves}")
        result_file = self.scratch / "check.json"
        result_file.unlink(missing_ok=True)
        lists = (",".join(self.recipe.absent), ",".join(self.recipe.imports))
        script = (str(RECIPES / "check_engine.py"), str(result_file), self.recipe.distribution, *lists)
        environ = {**self.children.environ, "PYTHONPATH": str(SHIM)}
        outcome = self.children.run("loading the engine once", [self.python, "-P", *script], environ)
        result = directories.read_json(result_file)
        if outcome.returncode or not result:
            raise self._broken("the engine cannot be loaded", outcome)
        if result["missing"]:
            raise self._broken(f"requirements of the engine are not met: {', '.join(result['missing'])}")
        if result["device"] != "cpu" or not result["kernels"]:
            found = f"platform {result['device']!r}, {result['kernels']} operators"
            raise self._broken(f"the engine does not run on this CPU: {found}", outcome)
        self._note(f"the engine loads: vLLM {result['version']}, {result['kernels']} CPU operators")

    def _install_first_seen(self, step: Step) -> None:
        """Fetch the one wheel of ``step`` on its own, hold it to the digest seen first, install that very file."""
        folder = self.scratch / "wheel"
        where = ("--index-url", step.only_index or "", "--dest", str(folder), *_FEW_RETRIES)
        self._require_success(step, self._pip(step, (*_DOWNLOAD, *where), step.pins))
        wheel = next(folder.glob("*.whl"))
        pins = f"{step.pins} --hash=sha256:{self._digest_seen_first(wheel)}"
        self._require_success(step, self._pip(step, (*_INSTALL, "--no-index", "--find-links", str(folder)), pins))
        shutil.rmtree(folder)

    def _digest_seen_first(self, wheel: Path) -> str:
        """The SHA-256 of ``wheel``, recorded when its name is new; StepFailed when it is not the recorded one."""
        digest = _sha256(wheel)
        seen = directories.read_json(self.first_seen)
        if seen.setdefault(wheel.name, digest) != digest:
            message = f"{wheel.name} has sha256:{digest}, but the first one seen here had sha256:{seen[wheel.name]}"
            remedy = f"a published wheel does not change: find out why. To accept it, delete {self.first_seen}"
            raise StepFailed(Failure.DIGEST, message, remedy=remedy)
        directories.write_json(self.first_seen, seen)
        self._note(f"{wheel.name}: its index publishes no digest; recorded, and required from now on: sha256:{digest}")
        return digest

    def _pip(self, step: Step, arguments: tuple[str, ...], requirements: str) -> PipFailure | None:
        """Run pip for ``requirements``; how it failed, or None when it did not."""
        failure_file, wanted = self.scratch / "pip-failure.json", self.scratch / "requirements.txt"
        failure_file.unlink(missing_ok=True)
        wanted.write_text(f"{requirements}\n", encoding="utf-8")
        script = (str(RECIPES / "run_pip.py"), str(failure_file), *arguments, "--requirement", str(wanted))
        outcome = self.children.run(step.title, [self.python, "-I", *script])
        if outcome.returncode == 0:
            return None
        return PipFailure.of(directories.read_json(failure_file), directories.free_bytes(self.path), outcome.tail)

    def _require_success(self, step: Step, failed: PipFailure | None) -> None:
        if failed is None:
            return
        reason, remedy = failed.explain(step)
        if failed.kind is Failure.DISK:
            free = format_bytes(directories.free_bytes(self.path))
            raise NotEnoughDisk(f"{step.title}: {reason}: {self.path} has {free} left", remedy=remedy)
        raise StepFailed(failed.kind, f"{step.title}: {reason}", tail=failed.tail, remedy=remedy)

    def _venv_failed(self, outcome: Outcome) -> StepFailed:
        remedy = f"does `{sys.executable} -m venv` work for another directory?"
        if importlib.util.find_spec("ensurepip") is None:
            versioned = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
            remedy = f"on Debian and Ubuntu: apt-get install python3-venv (or {versioned})"
        message = f"no virtual environment could be made at {self.path}"
        return StepFailed(Failure.NO_VENV, message, tail=outcome.tail, remedy=remedy)

    def _broken(self, reason: str, outcome: Outcome | None = None) -> StepFailed:
        remedy = (
            "lading engine remove, then lading engine install; if it stays so, this recipe does not fit this machine"
        )
        message = f"{self.recipe.name} {self.recipe.version}: {reason}"
        return StepFailed(Failure.BROKEN, message, tail=outcome.tail if outcome else (), remedy=remedy)

    def _has_pip(self) -> bool:
        try:
            return self.children.run("Python environment", [self.python, "-I", "-c", "import pip"]).returncode == 0
        except OSError:
            return False  # no interpreter, or one that cannot be executed

    def _clear(self) -> None:
        """Empty the directory, but for the marker that says it is ours and the scratch directory."""
        for each in self.path.iterdir():
            if each.name not in (directories.MARKER, directories.SCRATCH):
                _delete(each)

    def _site_packages(self) -> Path | None:
        return next(iter(sorted(self.path.glob("lib/python3.*/site-packages"))), None)

    def _packages(self) -> Path:
        packages = self._site_packages()
        if packages is None:
            raise self._broken("it has no site-packages directory")
        return packages

    def _note(self, text: str) -> None:
        self.children.report(Note(text))


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _distribution(dist_info: Path) -> str:
    return dist_info.name.removesuffix(".dist-info")


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            hasher.update(block)
    return hasher.hexdigest()
