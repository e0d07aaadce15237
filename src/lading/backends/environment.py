"""Engine environments: the embedded CPU engine, each version in a virtual environment of its own below one directory.

``<root>/<name>-<version>-<8 hex of the recipe>`` is complete when it holds a receipt. Finding environments reads
receipts and starts nothing. An install is planned first (:class:`InstallPlan`) and then carried out, step by step, by
:mod:`lading.backends.recipes.assembly`; interrupted at any moment, the next one goes on where it stopped.
One lock serves the whole root: two installs at once do the work once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lading.backends.recipes import Host, Recipe, load_recipes, not_offered, obstacle
from lading.backends.recipes import directory as directories
from lading.backends.recipes.plan import InstallPlan
from lading.errors import Stopped, UsageError
from lading.events import Note, Report, ignore
from lading.units import format_bytes

__all__ = ["EngineEnvironment", "EngineEnvironments", "InstallPlan"]

SHIM = Path(__file__).parent / "shim"
_FIRST_SEEN = "first-seen-wheels.json"
_LOCK = ".lock"
_LOCK_POLL_SECONDS = 0.2
_PAGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class EngineEnvironment:
    """A complete environment. ``is_current`` is False for one that an older Lading's recipe made: it still serves."""

    name: str
    version: str
    origin: str
    path: Path
    created: str
    size_bytes: int
    is_current: bool

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"

    @property
    def argv(self) -> tuple[str, ...]:
        """What starts the engine's command line.

        A module, not ``bin/vllm``: the script's first line breaks when the directory is moved. ``-P`` keeps a ``torch``
        or ``vllm`` folder of the current directory from being imported instead.
        """
        return (str(self.python), "-P", "-m", "vllm.entrypoints.cli.main")

    @property
    def environ(self) -> Mapping[str, str]:
        """What every process of the engine needs: the shim (``shim/sitecustomize.py``)."""
        return {"PYTHONPATH": str(SHIM)}

    @property
    def site_packages(self) -> Path:
        """Where its packages are."""
        return next(iter(sorted(self.path.glob("lib/python3.*/site-packages"))))

    @property
    def notice(self) -> str | None:
        """What a user of an older environment should know; None for a current one."""
        if self.is_current:
            return None
        return f"{self.path} is of an older recipe of {self.name}; `lading engine install` makes the current one"


@dataclass(frozen=True, slots=True)
class _Choice:
    recipe: Recipe
    reason: str


class EngineEnvironments:
    """The engine environments below ``root``.

    ``recipes`` are in order of preference, ``environ`` is what pip inherits (proxies, its own settings), ``offline``
    forbids every index: then pip has the folders it is configured with. An index that is only preferred has
    ``index_seconds`` to answer.
    """

    def __init__(
        self,
        root: Path,
        *,
        recipes: tuple[Recipe, ...] | None = None,
        environ: Mapping[str, str] | None = None,
        host: Host | None = None,
        offline: bool = False,
        index_seconds: float = 4.0,
    ) -> None:
        self.root = root.absolute()
        self._given_recipes = recipes
        self._given_host = host
        self._environ = environ or {}
        self._offline = offline
        self._index_seconds = index_seconds

    @cached_property
    def recipes(self) -> tuple[Recipe, ...]:
        """The recipes this Lading knows, preferred ones first."""
        return load_recipes() if self._given_recipes is None else self._given_recipes

    @cached_property
    def host(self) -> Host:
        """The machine to install for."""
        if self._given_host is not None:
            return self._given_host
        return Host.probe({library for recipe in self.recipes for library in recipe.libraries})

    def installed(self) -> list[EngineEnvironment]:
        """The complete environments: current ones first, in the order of the recipes, then older ones, newest first."""
        order = [recipe.directory_name for recipe in self.recipes]
        try:
            found = [environment for path in self.root.iterdir() if (environment := self._read(path))]
        except OSError:
            return []  # there is no such directory, or none that we may look into
        found.sort(key=lambda each: each.created, reverse=True)
        return sorted(found, key=lambda each: order.index(each.path.name) if each.is_current else len(order))

    def find(self, name: str) -> EngineEnvironment | None:
        """The environment to use for engine ``name``: a current one if there is one, else the newest older one."""
        return next((each for each in self.installed() if each.name == name), None)

    def plan(self, name: str) -> InstallPlan:
        """What :meth:`install` would do. May ask an index once, for a few seconds at most; changes nothing."""
        return self._plan(self._choices(name)[0])

    def install(
        self, name: str, report: Report = ignore, cancelled: threading.Event | None = None
    ) -> EngineEnvironment:
        """A current environment of engine ``name``; at once when there is one.

        Where the preferred origin fails for a reason of its own, the next one is used. Raises EngineInstallFailed,
        NotEnoughDisk, NotWritable, or Stopped when ``cancelled`` was set; what was made so far stays for the next try.
        """
        from lading.backends.recipes.failure import Failure, StepFailed

        choices = self._choices(name)
        for choice, following in zip(choices, [*choices[1:], None], strict=True):
            try:
                return self._install(choice, report, cancelled or threading.Event())
            except StepFailed as error:
                if following is None or error.failure is Failure.DIGEST:
                    raise
                given_up = f"{choice.recipe.origin} is given up, using {following.recipe.origin}"
                report(Note(f"{error}\n{given_up}", "WARNING"))
        raise AssertionError(name)  # there is always one choice, and the last one raises

    def remove(self, name: str, report: Report = ignore) -> int:
        """Remove every environment of engine ``name``, complete or not, or the one directory of that name.

        The bytes freed; 0 when there was nothing. Raises UsageError for a directory that is not ours.
        """
        if not self.root.is_dir():
            return 0
        with directories.machine_errors(self.root), self._locked(report, threading.Event()):
            paths = self._paths_of(name)
            return directories.remove_leftovers(self.root) + sum(map(directories.remove, paths))

    def removable(self, name: str) -> dict[Path, int]:
        """The directories that :meth:`remove` would remove, with what each occupies in bytes. Changes nothing."""
        if not self.root.is_dir():
            return {}
        with directories.machine_errors(self.root):
            paths = [*directories.leftovers(self.root), *self._paths_of(name)]
            return {path: directories.size_of(path) for path in paths}

    def _install(self, choice: _Choice, report: Report, cancelled: threading.Event) -> EngineEnvironment:
        plan = self._plan(choice)
        if not plan.is_complete:
            plan.require_feasible()
            with directories.machine_errors(plan.path), self._locked(report, cancelled) as lock:
                if self._current(plan.name) is None:  # else somebody made it while we waited
                    self._assemble(choice, report, cancelled, lock)
        environment = self._current(plan.name)
        assert environment is not None, plan.path  # noqa: S101 (its receipt was just written or read)
        report(Note(f"{plan.name} {plan.version} is at {environment.path} ({format_bytes(environment.size_bytes)})"))
        return environment

    def _assemble(self, choice: _Choice, report: Report, cancelled: threading.Event, lock: int) -> None:
        from lading.backends.recipes.assembly import assemble, child_environ
        from lading.backends.recipes.child import Children

        plan = self._plan(choice)
        report(Note(str(plan).rstrip()))
        directories.remove_leftovers(self.root)
        environ = child_environ(self._environ, plan.path / directories.SCRATCH, offline=self._offline)
        assemble(choice.recipe, plan.path, self.root / _FIRST_SEEN, Children(environ, report, cancelled, lock))
        directories.remove_unfinished(self.root, plan.name)
        for each in self.installed():
            if each.name == plan.name and not each.is_current:
                size = format_bytes(each.size_bytes)
                report(Note(f"{each.path} ({size}) is of an older recipe and not needed any more"))

    def _current(self, name: str) -> EngineEnvironment | None:
        found = self.find(name)
        return found if found and found.is_current else None

    def _read(self, path: Path) -> EngineEnvironment | None:
        receipt = directories.read_receipt(path)
        if receipt is None:
            return None
        return EngineEnvironment(
            name=receipt.name,
            version=receipt.version,
            origin=receipt.origin,
            path=path,
            created=receipt.created,
            size_bytes=receipt.size_bytes,
            is_current=path.name in {recipe.directory_name for recipe in self.recipes},
        )

    def _choices(self, name: str) -> list[_Choice]:
        """The recipes to try, in order: the installed one alone, or else those whose index has the wheel."""
        recipes = [recipe for recipe in self.recipes if recipe.name == name]
        if not recipes:
            known = ", ".join(sorted({recipe.name for recipe in self.recipes}))
            raise UsageError(f"no engine is named {name!r}", remedy=f"engines that can be installed: {known}")
        if current := self._current(name):
            return [_Choice(recipe, "installed") for recipe in recipes if recipe.directory_name == current.path.name]
        choices, skipped = [], ""
        for recipe in recipes:
            why_not = self._unavailable(recipe)
            if why_not:
                skipped += f"; not from {recipe.origin}: {why_not}"
            else:
                choices.append(_Choice(recipe, f"{recipe.merit}{skipped}"))
        return choices

    def _unavailable(self, recipe: Recipe) -> str | None:
        """Why the index of ``recipe`` is of no use here, asked once and briefly; None when it has the wheel."""
        if recipe.index is None:
            return None
        if self._offline:
            return "offline"
        page = _page(recipe.index, self._index_seconds)
        return "its index does not answer" if page is None else not_offered(recipe, page, self.host)

    def _plan(self, choice: _Choice) -> InstallPlan:
        path = self.root / choice.recipe.directory_name
        with directories.machine_errors(path):
            is_complete = self._read(path) is not None
            return InstallPlan(
                recipe=choice.recipe,
                reason=choice.reason,
                path=path,
                is_complete=is_complete,
                present_bytes=0 if is_complete else directories.size_of(path),
                free_bytes=directories.free_bytes(path),
                obstacle=obstacle(choice.recipe, self.host),
            )

    def _paths_of(self, name: str) -> list[Path]:
        """What a removal is asked for."""
        if name in {recipe.name for recipe in self.recipes}:
            paths = (path for path in sorted(self.root.iterdir()) if path.name.startswith(f"{name}-"))
            return [path for path in paths if directories.is_ours(path)]
        path = self.root / name
        if Path(name).name != name or name.startswith("."):
            raise UsageError(f"{name!r} is not the name of an environment", remedy="lading engine list shows them")
        if os.path.lexists(path) and not directories.is_ours(path):
            raise UsageError(f"{path} was not made by lading engine install", remedy="remove it yourself")
        return [path] if directories.is_ours(path) else []

    @contextmanager
    def _locked(self, report: Report, cancelled: threading.Event) -> Iterator[int]:
        """The lock of this root, as a descriptor that children may keep open. Waits for as long as it takes."""
        self.root.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not _take(lock):
                report(Note(f"another install is at work in {self.root}, waiting for it"))
            while not _take(lock):
                if cancelled.wait(_LOCK_POLL_SECONDS):
                    raise Stopped(signal.SIGTERM)
            yield lock
        finally:
            os.close(lock)


def _take(lock: int) -> bool:
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _page(url: str, seconds: float) -> str | None:
    """The text at ``url``, or None when it does not come within ``seconds``, name resolution included."""
    pages: list[str] = []
    thread = threading.Thread(target=_fetch, args=(url, seconds, pages), daemon=True)
    thread.start()
    thread.join(seconds)
    return pages[0] if pages else None


def _fetch(url: str, seconds: float, pages: list[str]) -> None:
    import urllib.request
    from http.client import HTTPException

    try:
        with urllib.request.urlopen(url, timeout=seconds) as answer:  # noqa: S310 (of a recipe)
            pages.append(answer.read(_PAGE_BYTES).decode("utf-8", "replace"))
    except (OSError, HTTPException, ValueError):
        return  # refused, unknown host, not found, not trusted: it has nothing for us
