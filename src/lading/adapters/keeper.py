"""Keeps a running engine's LoRA adapters like those that are found: at the start, and watched from then on.

Rules kept here:

* an adapter is taken when its files looked the same at two looks, and only a copy that nobody changes is given away;
* one that is refused is told once, with the reason, and tried again when its files change; the others go on;
* a version that is refused leaves the one that was loaded before; so does a place that cannot be looked at;
* what was given to the engine stays for an hour after it was unloaded: requests under way may need it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lading.adapters.adapter import Adapter, Step, changes
from lading.adapters.engine import EngineAdapters, NoAnswer, NotThere
from lading.adapters.places import Place
from lading.adapters.snapshot import Snapshot, StillMoving, discard, take
from lading.errors import EngineError, LadingError, MachineError
from lading.events import AdaptersChanged, Note, Report
from lading.model.facts import ModelFacts
from lading.model.lora import unfit
from lading.transfer import TransferCancelled

_PAUSE_SECONDS = 1.0
_LOOKS_AT_START = 10
_KEPT_SECONDS = 3600.0
_UNKNOWN = ""  # as mark: the engine may have any version, or none


@dataclass(frozen=True, slots=True)
class Base:
    """What adapters are loaded onto. ``names`` are the model's in the API, which no adapter can have."""

    engine: EngineAdapters
    facts: ModelFacts
    names: tuple[str, ...]
    max_rank: int


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A version that the engine has, as far as is known: ``snapshot`` is None where that is nothing."""

    mark: str
    snapshot: Snapshot | None


class AdapterKeeper:
    """The adapters of one engine. ``refresh_seconds`` None: they are looked for at the start alone.

    ``room`` is a directory for what the engine is given; whoever made it deletes it once the engine is gone.
    """

    def __init__(
        self,
        places: Sequence[Place],
        base: Base,
        room: Path,
        report: Report,
        *,
        refresh_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = places
        self._base = base
        self._room = room
        self._report = report
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._stopped = threading.Event()
        self._watcher: threading.Thread | None = None
        self._offered: dict[Place, tuple[Adapter, ...]] = {}
        self._troubles: dict[object, str] = {}
        self._before: dict[str, str] = {}
        self._loaded: dict[str, _Loaded] = {}
        self._refused: dict[str, str] = {}  # by name, the mark of what was refused
        self._moving: set[str] = set()
        self._retired: list[tuple[float, Path]] = []
        self._shown: AdaptersChanged | None = None

    def __enter__(self) -> AdapterKeeper:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def prepare(self, cancelled: threading.Event) -> None:
        """Look for the first time, and fetch what has to be fetched. Not watched, raises what looking raises."""
        found = self._look(cancelled, must=self._refresh_seconds is None)
        self._before = {name: each.mark for name, each in found.items()}

    def begin(self) -> bool:
        """Load what is there, and watch from then on; True once that is done. Called when the model answers."""
        self.sync()
        if self._refresh_seconds is None:
            self._wait_for_the_rest()
        else:
            self._watcher = threading.Thread(target=self._watch, name="lading-adapters", daemon=True)
            self._watcher.start()
        return True

    def stop(self) -> None:
        """Stop watching; a request to the engine that is under way is not waited for. May be called in any state."""
        self._stopped.set()
        for place in self._places:
            place.close()

    def sync(self) -> None:
        """Look once, and make the engine's adapters like those that are there."""
        now = self._look(self._stopped)
        self._moving = {name for name, each in now.items() if not each.is_final and self._before.get(name) != each.mark}
        self._before = {name: each.mark for name, each in now.items()}
        self._refused = {name: mark for name, mark in self._refused.items() if name in now}
        loaded = {name: each.mark for name, each in self._loaded.items()}
        for change in changes(self._before, loaded, self._refused, self._moving):
            if self._stopped.is_set():
                return
            match change.step:
                case Step.UNLOAD:
                    self._unload(change.name)
                case Step.REPLACE | Step.LOAD:
                    self._take(now[change.name])
        self._sweep()
        self._show(now)

    def _watch(self) -> None:
        with suppress(TransferCancelled):
            while not self._stopped.wait(self._refresh_seconds):
                self.sync()

    def _wait_for_the_rest(self) -> None:
        """Look again, a few times, at those that are being written."""
        for _ in range(_LOOKS_AT_START):
            if not self._moving or self._stopped.wait(_PAUSE_SECONDS):
                break
            self.sync()
        for name in sorted(self._moving):
            self._tell(
                f"LoRA adapter {name} skipped: it is still being written; NIM_PEFT_REFRESH_INTERVAL waits for it"
            )

    def _look(self, cancelled: threading.Event, *, must: bool = False) -> dict[str, Adapter]:
        """The adapters by name, the first of those that share one; what a place had where it cannot be looked at."""
        found: dict[str, Adapter] = {}
        for place in self._places:
            try:
                self._offered[place] = place.look(cancelled)
                self._troubles.pop(place, None)
            except LadingError as error:
                if must or cancelled.is_set():
                    raise
                if self._troubles.get(place) != error.message:
                    self._tell(f"{error.message}; its LoRA adapters stay as they are")
                self._troubles[place] = error.message
            for adapter in self._offered.get(place, ()):
                self._sort_in(adapter, found)
        return found

    def _sort_in(self, adapter: Adapter, found: dict[str, Adapter]) -> None:
        """Refuse what has a name that is taken."""
        first, key = found.get(adapter.name), (adapter.origin, adapter.name)
        clash = f"another of that name is in {first.origin}" if first else ""
        if adapter.name in self._base.names:
            clash = "the model itself has that name"
        if not clash:
            found[adapter.name] = adapter
            self._troubles.pop(key, None)
        elif self._troubles.get(key) != clash:
            self._troubles[key] = clash
            self._tell(f"LoRA adapter {adapter.name} of {adapter.origin} skipped: {clash}")

    def _take(self, adapter: Adapter) -> None:
        """Check the adapter and have it loaded, in place of the version before where there is one."""
        try:
            taken = take(adapter, self._room)
        except StillMoving:
            self._moving.add(adapter.name)
        except MachineError as error:
            self._postpone(adapter, error)
        except LadingError as error:
            self._refuse(adapter, error.message)
        else:
            before = self._loaded.get(adapter.name)
            if before and before.snapshot and before.snapshot.digest == taken.digest:
                self._loaded[adapter.name] = replace(before, mark=adapter.mark)  # written anew with the same bytes
                return
            reason = unfit(taken.config, taken.tensors, self._base.facts, self._base.max_rank)
            if reason is None:
                reason = self._load(adapter, taken, before)
            if reason:
                self._refuse(adapter, reason)
                self._discard_unless_loaded(adapter.name, taken)

    def _load(self, adapter: Adapter, taken: Snapshot, before: _Loaded | None) -> str | None:
        """Have a version loaded; the reason where that does not go, with the version before loaded again."""
        began = self._clock()
        if before and not self._forget(adapter.name, before):
            return None
        try:
            self._base.engine.load(adapter.name, taken.directory)
        except NoAnswer as error:
            self._loaded[adapter.name] = _Loaded(_UNKNOWN, None)
            self._retire(taken)
            self._postpone(adapter, error)
            return None
        except EngineError as error:
            if before:
                self._restore(adapter.name, before)
            return error.message
        self._loaded[adapter.name] = _Loaded(adapter.mark, taken)
        self._refused.pop(adapter.name, None)
        self._troubles.pop(adapter.name, None)
        if before and before.snapshot:
            self._retire(before.snapshot)
        verb = "replaced" if before else "loaded"
        seconds = self._clock() - began
        self._report(
            Note(
                f"LoRA adapter {adapter.name} {verb}: rank {taken.config.rank}, of {adapter.origin}, in {seconds:.1f} s"
            )
        )
        return None

    def _forget(self, name: str, before: _Loaded) -> bool:
        """Have the engine unload a version; True where it has it no more, or may never have had it."""
        try:
            self._base.engine.unload(name)
        except NotThere:
            pass  # somebody unloaded it by the API
        except EngineError as error:
            if before.snapshot is None and not isinstance(error, NoAnswer):
                return True
            if self._troubles.get(name) != error.message:
                self._troubles[name] = error.message
                self._tell(f"LoRA adapter {name} cannot be unloaded: {error.message}")
            return False
        self._troubles.pop(name, None)
        return True

    def _restore(self, name: str, before: _Loaded) -> None:
        """The version that was unloaded is loaded again."""
        if before.snapshot is None:
            del self._loaded[name]
            return
        try:
            self._base.engine.load(name, before.snapshot.directory)
        except EngineError as error:
            del self._loaded[name]
            self._tell(f"LoRA adapter {name}: the version before cannot be loaded again: {error.message}")

    def _unload(self, name: str) -> None:
        before = self._loaded[name]
        if not self._forget(name, before):
            return
        del self._loaded[name]
        if before.snapshot:
            self._retire(before.snapshot)
        self._report(Note(f"LoRA adapter {name} unloaded: it is gone from where it was"))

    def _refuse(self, adapter: Adapter, reason: str) -> None:
        self._refused[adapter.name] = adapter.mark
        loaded = self._loaded.get(adapter.name)
        stays = "; the version before stays" if loaded and loaded.snapshot else ""
        self._tell(f"LoRA adapter {adapter.name} of {adapter.origin} skipped: {reason}{stays}")

    def _postpone(self, adapter: Adapter, error: LadingError) -> None:
        """Tell once why an adapter could not be loaded now; watched, it is tried again at the next look."""
        if self._troubles.get(adapter.name) != error.message:
            self._troubles[adapter.name] = error.message
            remedy = f"; {error.remedy}" if error.remedy else ""
            self._tell(f"LoRA adapter {adapter.name} of {adapter.origin} is not loaded: {error.message}{remedy}")

    def _discard_unless_loaded(self, name: str, taken: Snapshot) -> None:
        """Delete what the engine has not got, and never will."""
        loaded = self._loaded.get(name)
        if loaded is None or (loaded.snapshot and loaded.snapshot.directory != taken.directory):
            discard(taken.directory)

    def _retire(self, snapshot: Snapshot) -> None:
        self._retired.append((self._clock(), snapshot.directory))

    def _sweep(self) -> None:
        """Delete what was given to the engine, was unloaded long ago, and did not come back."""
        in_use = {each.snapshot.directory for each in self._loaded.values() if each.snapshot}
        due = [each for each in self._retired if self._clock() - each[0] >= _KEPT_SECONDS]
        self._retired = [each for each in self._retired if each not in due]
        for _, directory in due:
            if directory not in in_use:
                discard(directory)

    def _show(self, now: Mapping[str, Adapter]) -> None:
        """Tell which adapters are loaded, where that is news."""
        loaded = tuple(sorted(name for name, each in self._loaded.items() if each.snapshot))
        seen = sum(len(self._offered.get(place, ())) for place in self._places)
        current = sum(self._loaded[name].mark == each.mark for name, each in now.items() if name in self._loaded)
        shown = AdaptersChanged(loaded, seen - current)
        if shown != self._shown:
            self._shown = shown
            self._report(shown)

    def _tell(self, text: str) -> None:
        self._report(Note(text, "WARNING"))
