"""The one owner of an engine's life: started, watched until the model answers, stopped, its tree empty.

:meth:`Supervisor.run` is the task that owns the state; everybody else asks (:meth:`stop`, :meth:`kill`) or reads
(:attr:`state`). The moves are the table in :mod:`lading.supervisor.state`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from lading.backends.interface import Command
from lading.events import EngineOutput, Phase, PhaseChanged, Report, ignore
from lading.supervisor.process import GuardedProcess
from lading.supervisor.state import State, move

_TAIL_LINES = 400
_ORDER = tuple(Phase)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an engine's life ended.

    ``exit_code`` is the engine's own, 128 + n where signal n ended it. ``tail`` are its last lines of output.
    """

    state: State
    exit_code: int
    was_ready: bool
    tail: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Readiness:
    """How to learn that the model answers: ``is_healthy`` is asked every ``interval_seconds``, then ``answers``."""

    is_healthy: Callable[[], Awaitable[bool]]
    answers: Callable[[], Awaitable[bool]]
    interval_seconds: float = 0.25


class Supervisor:
    """Runs one engine once."""

    def __init__(
        self,
        command: Command,
        readiness: Readiness,
        *,
        phase_of: Callable[[str], Phase | None],
        grace_seconds: float = 20,
        report: Report = ignore,
    ) -> None:
        self._command = command
        self._readiness = readiness
        self._phase_of = phase_of
        self._grace_seconds = grace_seconds
        self._report = report
        self._state = State.IDLE
        self._phase = Phase.STARTING
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._stop_asked = asyncio.Event()
        self._kill_asked = asyncio.Event()

    @property
    def state(self) -> State:
        """Where the engine stands now."""
        return self._state

    def stop(self) -> None:
        """Ask for an orderly stop: TERM, and KILL once the grace is over. May be called in any state, any often."""
        self._stop_asked.set()

    def kill(self) -> None:
        """Ask for an immediate end, without grace."""
        self._kill_asked.set()
        self._stop_asked.set()

    async def run(self) -> Outcome:
        """Start the engine and own it until it and all its descendants are gone; called once."""
        if self._stop_asked.is_set():
            self._state = move(self._state, State.STOPPED)
            return self._outcome(0, was_ready=False)
        self._state = move(self._state, State.STARTING)
        self._report(PhaseChanged(Phase.STARTING, "starting the engine"))
        process = await GuardedProcess.start(self._command.argv, self._command.environ, self._on_line)
        ended = asyncio.create_task(process.wait())
        try:
            was_ready = await self._until_ready(ended)
            if was_ready:
                self._state = move(self._state, State.READY)
                self._report(PhaseChanged(Phase.READY, "the model answers"))
            await self._first(ended, self._stop_asked.wait())
            if not ended.done():
                await self._end(process, ended)
            code = await ended
        finally:
            if not ended.done():  # this task was cancelled or broke: nothing is left behind in any case
                process.kill()
                await asyncio.wait({ended})
        self._state = move(self._state, State.STOPPED if self._stop_was_sent else State.FAILED)
        return self._outcome(code, was_ready=was_ready)

    @property
    def _stop_was_sent(self) -> bool:
        return self._state in (State.STOPPING, State.KILLING)

    async def _until_ready(self, ended: asyncio.Task[int]) -> bool:
        """True once the model answers; False when the engine ended or a stop was asked for before."""
        ready = asyncio.create_task(self._becomes_ready())
        await self._first(ended, ready, self._stop_asked.wait())
        if ready.done():
            return not ended.done() and not self._stop_asked.is_set()
        ready.cancel()
        return False

    async def _becomes_ready(self) -> None:
        while not (await self._readiness.is_healthy() and await self._readiness.answers()):
            await asyncio.sleep(self._readiness.interval_seconds)

    async def _end(self, process: GuardedProcess, ended: asyncio.Task[int]) -> None:
        """TERM, the grace, KILL."""
        self._state = move(self._state, State.STOPPING)
        self._report(PhaseChanged(Phase.STOPPING, "stopping the engine"))
        process.terminate()
        await self._first(ended, self._kill_asked.wait(), timeout_seconds=self._grace_seconds)
        if not ended.done():
            self._state = move(self._state, State.KILLING)
            process.kill()

    @staticmethod
    async def _first(
        ended: asyncio.Task[int], *others: Awaitable[object], timeout_seconds: float | None = None
    ) -> None:
        """Wait until the engine ended, another came true, or time is up."""
        tasks = [asyncio.ensure_future(each) for each in others]
        await asyncio.wait({ended, *tasks}, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        for own in (task for task, other in zip(tasks, others, strict=True) if task is not other):
            own.cancel()

    def _on_line(self, line: str) -> None:
        self._tail.append(line)
        self._report(EngineOutput(line))
        phase = self._phase_of(line)
        if self._state is State.STARTING and phase and _ORDER.index(phase) > _ORDER.index(self._phase):
            self._phase = phase
            self._report(PhaseChanged(phase))

    def _outcome(self, exit_code: int, *, was_ready: bool) -> Outcome:
        return Outcome(self._state, exit_code, was_ready, tuple(self._tail))
