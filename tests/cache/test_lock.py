"""The lock: excludes, says who holds it, ends with its holder, and works where flock does not."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lading.cache.lock import Holder, Lock, Timing
from lading.errors import CacheBusy, MachineError
from lading.events import Event, Note


def without_flock(number: int = errno.ENOTSUP) -> Callable[[int, int], None]:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    return flock


@pytest.fixture(params=["flock", "lease"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Lock]:
    """Makes locks of one path, with either mechanism."""

    def lock(**timing: Any) -> Lock:
        flock = fcntl.flock if request.param == "flock" else without_flock()
        return Lock(tmp_path / "locks" / "model.lock", flock=flock, timing=Timing(**timing))

    return lock


def test_one_at_a_time(make: Callable[..., Lock]) -> None:
    with make().acquire(0):
        with pytest.raises(CacheBusy):
            make().acquire(0)
        with pytest.raises(CacheBusy):
            make().acquire(0)
    with make().acquire(0):
        pass


def test_the_error_and_the_note_say_who_holds_it(make: Callable[..., Lock]) -> None:
    events: list[Event] = []
    with make().acquire(0), pytest.raises(CacheBusy) as raised:
        make().acquire(0.3, events.append)
    who = f"process {os.getpid()} on {socket.gethostname()}, for 0."
    assert who in str(raised.value)
    assert raised.value.exit_code == 6
    assert len(events) == 1
    assert isinstance(events[0], Note)
    assert who in events[0].text


def test_a_note_every_ten_seconds(make: Callable[..., Lock]) -> None:
    now = [0.0]
    events: list[Event] = []

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with make().acquire(0), pytest.raises(CacheBusy, match=r"waited 4\d s"):
        make(clock=lambda: now[0], sleep=sleep, stale_seconds=1e9).acquire(45, events.append)
    assert len(events) == 5


def test_a_waiter_gets_it_when_it_is_released(make: Callable[..., Lock]) -> None:
    held = make().acquire(0)
    threading.Timer(0.15, held.release).start()
    began = time.monotonic()
    with make().acquire(10):
        assert 0.1 < time.monotonic() - began < 2


def test_a_check_can_end_the_waiting(make: Callable[..., Lock]) -> None:
    def check() -> None:
        raise KeyError

    with make().acquire(0), pytest.raises(KeyError):
        make().acquire(10, check=check)


def test_releasing_twice_or_never_held_is_no_error(make: Callable[..., Lock]) -> None:
    lock = make()
    lock.release()
    lock.acquire(0)
    lock.release()
    lock.release()
    with make().acquire(0):
        pass


def test_nobody_is_named_when_the_file_says_nothing(make: Callable[..., Lock], tmp_path: Path) -> None:
    with make().acquire(0) as held:
        path = held.path if held.path.stat().st_size else held.path.with_name("model.lock.lease")
        path.write_bytes(b"{}")
        with pytest.raises(CacheBusy, match="another process"):
            make().acquire(0)


def holder_of(lock: Lock) -> Holder:
    holder = lock.holder()
    assert holder is not None
    return holder


CHILD = """
import sys, time
from pathlib import Path
from lading.cache.lock import Lock
Lock(Path(sys.argv[1])).acquire(10)
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.lock"
    child = subprocess.Popen([sys.executable, "-c", CHILD, path], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(CacheBusy, match=f"process {child.pid} on"):
        Lock(path).acquire(0)
    child.kill()
    child.wait()
    child.stdout.close()
    with Lock(path).acquire(5) as lock:
        assert holder_of(lock).pid == os.getpid()


def test_the_lock_file_stays_and_forgets_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "model.lock"
    with Lock(path).acquire(0):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert path.read_bytes() == b""
    assert Lock(path).holder() is None


def test_a_lock_on_a_file_that_was_replaced_meanwhile_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "model.lock"
    replaced: list[bool] = []

    def flock(descriptor: int, operation: int) -> None:
        fcntl.flock(descriptor, operation)
        if not replaced:
            path.unlink()
            path.touch()
            replaced.append(True)

    with Lock(path, flock=flock).acquire(5) as lock:
        assert lock.holder() is not None
        with pytest.raises(CacheBusy):
            Lock(path).acquire(0)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_filesystem_without_flock_gets_a_lease_that_is_removed(number: int, tmp_path: Path) -> None:
    path = tmp_path / "model.lock"
    lease = tmp_path / "model.lock.lease"
    with Lock(path, flock=without_flock(number)).acquire(0) as lock:
        assert holder_of(lock).encode() == lease.read_bytes()
        assert holder_of(lock).host == socket.gethostname()
    assert not lease.exists()


def test_any_other_refusal_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"model\.lock"):
        Lock(tmp_path / "model.lock", flock=without_flock(errno.EIO)).acquire(0)


def leased(path: Path, **timing: Any) -> Lock:
    return Lock(path, flock=without_flock(), timing=Timing(**timing))


def test_a_lease_that_nobody_touches_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "model.lock"
    dead = Holder(999_999, "gone", 0, "t").encode()
    (tmp_path / "model.lock.lease").write_bytes(dead)
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with pytest.raises(CacheBusy, match="process 999999 on gone"):
        leased(path, clock=lambda: now[0], sleep=sleep).acquire(59)
    now[0] = 0
    with leased(path, clock=lambda: now[0], sleep=sleep).acquire(70) as lock:
        assert holder_of(lock).pid == os.getpid()
    assert os.listdir(tmp_path) == ["model.lock"]


def test_a_lease_that_is_touched_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "model.lock"
    with leased(path, heartbeat_seconds=0.05).acquire(0), pytest.raises(CacheBusy):
        leased(path, stale_seconds=0.3).acquire(1)


def test_a_lease_taken_away_by_somebody_else_is_left_to_them(tmp_path: Path) -> None:
    path = tmp_path / "model.lock"
    lease = tmp_path / "model.lock.lease"
    with leased(path).acquire(0):
        lease.write_bytes(Holder(1, "other", 0, "t").encode())
    assert lease.exists()


def test_many_threads_count_without_losing_one(make: Callable[..., Lock]) -> None:
    count = [0]

    def work() -> None:
        for _ in range(5):
            with make(sleep=lambda _: time.sleep(0.001)).acquire(30):
                seen = count[0]
                time.sleep(0.001)
                count[0] = seen + 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count == [20]
