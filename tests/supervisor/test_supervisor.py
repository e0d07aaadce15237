"""The supervisor with real processes: every way to start, stop, crash, ignore, fork and be orphaned."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from lading.backends.interface import Command
from lading.events import EngineOutput, Event, Phase, PhaseChanged
from lading.supervisor.state import ENDED, MOVES, State, move
from lading.supervisor.supervisor import Outcome, Readiness, Supervisor

GUARD = Path(__file__).parents[2] / "src/lading/supervisor/guard.py"


@pytest.mark.parametrize(("current", "following"), list(product(State, State)))
def test_only_the_moves_of_the_table_are_allowed(current, following):
    if following in MOVES[current]:
        assert move(current, following) is following
    else:
        with pytest.raises(ValueError, match="cannot go"):
            move(current, following)


def test_every_state_is_reachable_and_every_life_can_end():
    reachable, waiting = {State.IDLE}, [State.IDLE]
    while waiting:
        new = MOVES[waiting.pop()] - reachable
        reachable |= new
        waiting += new
    assert reachable == set(State)
    assert {State.FAILED, State.STOPPED} == ENDED


class Engine:
    """A stand-in engine: a Python script that marks itself ready by a file, with hooks for misbehaviour."""

    def __init__(self, directory: Path, body: str) -> None:
        self.ready = directory / "ready"
        self.pids = directory / "pids"
        self.answers = True
        prelude = f"""
            import os, signal, subprocess, sys, time
            def note(pid=None):
                with open({str(self.pids)!r}, "a") as file: file.write(f"{{pid or os.getpid()}}\\n")
            def ready(): open({str(self.ready)!r}, "w").close()
            note()
        """
        script = directory / "engine.py"
        script.write_text(textwrap.dedent(prelude) + textwrap.dedent(body))
        self.command = Command((sys.executable, "-S", str(script)), dict(os.environ), ())
        self.events: list[Event] = []

    def supervisor(self, grace_seconds: float = 10) -> Supervisor:
        async def is_healthy() -> bool:
            return self.ready.exists()

        async def answers() -> bool:
            return self.answers

        return Supervisor(
            self.command,
            Readiness(is_healthy, answers, interval_seconds=0.01),
            phase_of=lambda line: Phase.LOADING if "loading" in line else None,
            grace_seconds=grace_seconds,
            report=self.events.append,
        )

    def run(self, *, stop_when: str = "never", grace_seconds: float = 10, kill: bool = False) -> Outcome:
        """Run to the end, asking for a stop once the engine is ``started`` or ``ready``."""

        async def life() -> Outcome:
            supervisor = self.supervisor(grace_seconds)
            task = asyncio.create_task(supervisor.run())
            if stop_when == "before":
                supervisor.stop()
            while stop_when in ("started", "ready") and not task.done():
                if supervisor.state is State.READY or (stop_when == "started" and self.pids.exists()):
                    supervisor.stop()
                    break
                await asyncio.sleep(0.005)
            if kill:
                await asyncio.sleep(0.1)
                supervisor.kill()
            return await task

        return asyncio.run(asyncio.wait_for(life(), 60))

    @property
    def survivors(self) -> list[int]:
        return [pid for pid in map(int, self.pids.read_text().split()) if is_alive(pid)]

    @property
    def lines(self) -> list[str]:
        return [event.line for event in self.events if isinstance(event, EngineOutput)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(condition, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


FORKS = """
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
    note(child.pid)
"""


def test_an_engine_that_answers_is_ready_and_stops_when_asked(tmp_path):
    engine = Engine(tmp_path, "ready(); time.sleep(600)")
    outcome = engine.run(stop_when="ready")
    assert (outcome.state, outcome.was_ready, outcome.exit_code) == (State.STOPPED, True, 143)
    assert PhaseChanged(Phase.READY, "the model answers") in engine.events
    assert engine.survivors == []


def test_the_engines_own_exit_code_is_reported(tmp_path):
    body = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); ready(); time.sleep(600)"
    assert Engine(tmp_path, body).run(stop_when="ready").exit_code == 0


def test_healthy_is_not_ready_until_the_model_answers(tmp_path):
    engine = Engine(tmp_path, "ready(); time.sleep(0.5); sys.exit(3)")
    engine.answers = False
    outcome = engine.run()
    assert (outcome.state, outcome.was_ready, outcome.exit_code) == (State.FAILED, False, 3)


def test_an_engine_that_ignores_term_is_killed_after_the_grace(tmp_path):
    engine = Engine(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN); ready(); time.sleep(600)")
    outcome = engine.run(stop_when="ready", grace_seconds=0.2)
    assert (outcome.state, outcome.exit_code) == (State.STOPPED, 137)
    assert engine.survivors == []


def test_a_second_request_does_not_wait_for_the_grace(tmp_path):
    engine = Engine(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN); ready(); time.sleep(600)")
    started = time.monotonic()
    assert engine.run(stop_when="ready", grace_seconds=60, kill=True).exit_code == 137
    assert time.monotonic() - started < 30


def test_an_engine_that_crashes_gives_its_code_and_its_last_words(tmp_path):
    engine = Engine(tmp_path, "print('loading'); print('cause', file=sys.stderr); sys.exit(5)")
    outcome = engine.run()
    assert (outcome.state, outcome.exit_code, outcome.was_ready) == (State.FAILED, 5, False)
    assert set(outcome.tail) == {"loading", "cause"}


def test_an_engine_ended_by_a_signal_gives_128_plus_its_number(tmp_path):
    assert Engine(tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)").run().exit_code == 139


def test_a_crash_while_serving_is_a_failure_that_had_been_ready(tmp_path):
    engine = Engine(tmp_path, "ready(); time.sleep(0.5); sys.exit(0)")
    outcome = engine.run()
    assert (outcome.state, outcome.was_ready, outcome.exit_code) == (State.FAILED, True, 0)


def test_a_program_that_is_not_there_is_a_failure(tmp_path):
    engine = Engine(tmp_path, "")
    engine.command = Command(("/nowhere/engine",), {}, ())
    outcome = engine.run()
    assert (outcome.state, outcome.exit_code) == (State.FAILED, 127)
    assert "No such file" in outcome.tail[0]


@pytest.mark.parametrize("ending", ["sys.exit(1)", "os.kill(os.getpid(), signal.SIGKILL)", "ready(); time.sleep(600)"])
def test_no_descendant_survives_whatever_the_ending(tmp_path, ending):
    engine = Engine(tmp_path, textwrap.dedent(FORKS) + ending)
    engine.run(stop_when="ready")
    assert len(engine.pids.read_text().split()) == 2
    assert engine.survivors == []


def test_a_stop_while_starting_is_a_stop(tmp_path):
    engine = Engine(tmp_path, "time.sleep(600)")
    outcome = engine.run(stop_when="started")
    assert (outcome.state, outcome.was_ready) == (State.STOPPED, False)
    assert engine.survivors == []


def test_a_stop_before_the_start_starts_nothing(tmp_path):
    engine = Engine(tmp_path, "time.sleep(600)")
    assert engine.run(stop_when="before").state is State.STOPPED
    assert not engine.pids.exists()


def test_a_cancelled_run_leaves_nothing(tmp_path):
    engine = Engine(tmp_path, textwrap.dedent(FORKS) + "time.sleep(600)")

    async def life() -> None:
        task = asyncio.create_task(engine.supervisor().run())
        while not (engine.pids.exists() and len(engine.pids.read_text().split()) == 2):
            await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(life())
    assert engine.survivors == []


def test_output_is_read_by_line_carriage_returns_included(tmp_path):
    engine = Engine(tmp_path, r"""sys.stdout.write("0%\r50%\r100%\n\nlast without end"); sys.stdout.flush()""")
    engine.run()
    assert engine.lines == ["0%", "50%", "100%", "last without end"]


def test_an_endless_line_is_cut_not_kept(tmp_path):
    engine = Engine(tmp_path, "sys.stdout.write('x' * 300_000); sys.stdout.write('\\nend\\n')")
    engine.run()
    assert max(map(len, engine.lines)) <= 1 << 15
    assert engine.lines[-1] == "end"


def test_bytes_that_are_no_text_do_not_stop_the_reading(tmp_path):
    engine = Engine(tmp_path, "sys.stdout.buffer.write(b'\\xff\\xfe\\n'); print('after')")
    engine.run()
    assert engine.lines[-1] == "after"


@contextlib.contextmanager
def guarded(tmp_path: Path, body: str) -> Iterator[tuple[subprocess.Popen[bytes], Engine]]:
    """A parent process that starts an engine under guard and waits, as Lading does."""
    engine = Engine(tmp_path, body)
    parent = f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-I", "-S", {str(GUARD)!r}, *{list(engine.command.argv)!r}], start_new_session=True)
        open({str(tmp_path / "guard")!r}, "w").write(str(child.pid))
        child.wait()
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(parent)], stdout=subprocess.DEVNULL)
    try:
        assert eventually(lambda: engine.pids.exists() and len(engine.pids.read_text().split()) == 2)
        yield process, engine
    finally:
        process.kill()
        process.wait()
        for pid in engine.survivors:
            os.kill(pid, signal.SIGKILL)


def test_when_lading_is_killed_the_engine_and_its_children_go(tmp_path):
    with guarded(tmp_path, textwrap.dedent(FORKS) + "time.sleep(600)") as (parent, engine):
        parent.kill()
        assert eventually(lambda: engine.survivors == [])


def test_when_the_guard_is_killed_the_engine_goes(tmp_path):
    with guarded(tmp_path, textwrap.dedent(FORKS) + "time.sleep(600)") as (_, engine):
        os.kill(int((tmp_path / "guard").read_text()), signal.SIGKILL)
        own = int(engine.pids.read_text().split()[0])
        assert eventually(lambda: not is_alive(own))
