"""Lading as a user runs it: a child process with its own environment, on free ports, ended whatever a test does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PASSED_ON = ("PATH", "LANG", "TMPDIR", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG", "PYTHONPATH")


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and the body that came with it."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    def header(self, name: str) -> str | None:
        """The value of a header, whatever its case."""
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Program:
    """A running ``lading``."""

    process: subprocess.Popen[str]
    log: Path
    port: int = 0

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def get(self, path: str, body: Any = None) -> Answer:
        """One request; a refused connection is an error."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=json.dumps(body).encode() if body else None
        )
        request.add_header("Content-Type", "application/json")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as response:
                return Answer(response.status, response.read(), dict(response.headers))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read(), dict(error.headers))

    def wait_for_line(self, text: str, seconds: float = 60) -> None:
        """Until the log holds ``text``; fails with the log when the program ends or time is up."""
        deadline = time.monotonic() + seconds
        while text not in self.output:
            ended = self.process.poll() is not None and text not in self.output
            assert not ended and time.monotonic() < deadline, f"{text!r} is not in the log:\n{self.output}"
            time.sleep(0.01)

    def wait_until_listening(self) -> None:
        self.wait_for_line("listening on http://")
        self.port = int(self.output.partition("listening on http://")[2].split()[0].rpartition(":")[2])

    def wait_until_ready(self, seconds: float = 60) -> None:
        self.wait_until_listening()
        self.wait_for_line("] ready: ", seconds)

    def stop(self, number: int = signal.SIGTERM, seconds: float = 60) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """A running engine as the kernel shows it."""

    pid: int
    argv: tuple[str, ...]
    environ: Mapping[str, str]


def engine_of(program: Program) -> EngineProcess:
    """The engine's first process below ``lading``, known by the flags that it alone gets."""
    below = {program.process.pid}
    while more := {pid for pid, parent in _parents().items() if parent in below} - below:
        below |= more
    found = {pid: _words(Path(f"/proc/{pid}/cmdline")) for pid in sorted(below - {program.process.pid})}
    pid, argv = next((pid, argv) for pid, argv in found.items() if {"--served-model-name", "--tokenizer"} & {*argv})
    return EngineProcess(pid, argv, dict(each.split("=", 1) for each in _words(Path(f"/proc/{pid}/environ"))))


def _parents() -> dict[int, int]:
    """Every process, and which one started it."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return found


def _words(path: Path) -> tuple[str, ...]:
    try:
        return tuple(each.decode(errors="replace") for each in path.read_bytes().split(b"\0") if each)
    except OSError:
        return ()


DENY_CONNECTIONS = """
import os, re, sys
def deny(event, arguments):
    resolves = event == "socket.getaddrinfo" and not re.fullmatch(r"[0-9.]+", str(arguments[0]))
    if resolves or (event == "socket.connect" and not isinstance(arguments[1], (str, bytes))):
        line = f"{os.getpid()} {event} {arguments[0 if resolves else 1]}\\n"
        descriptor = os.open(__file__ + ".log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())
        os.close(descriptor)
        raise PermissionError(f"a socket was used: {line}")
sys.addaudithook(deny)
"""


def socket_uses(directory: Path, pid: int | None = None) -> list[str]:
    """What :func:`without_sockets` refused in ``directory``, all of it or that of one process."""
    log = directory / "deny" / "sitecustomize.py.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.partition(" ")[2] for line in lines if pid is None or line.startswith(f"{pid} ")]


def without_sockets(directory: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` for a Python program that may listen, but may neither connect (but to Unix sockets) nor resolve.

    Each try is refused and written down: code that takes an error for "no network" would hide it.
    """
    place = directory / "deny"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(DENY_CONNECTIONS)
    return {**environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(place), environ.get("PYTHONPATH")]))}


def environment(directory: Path, **changes: str) -> dict[str, str]:
    """An environment with nothing of the machine's but what a program needs to start."""
    kept = {name: value for name in _PASSED_ON if (value := os.environ.get(name))}
    places = {
        "HOME": str(directory / "home"),
        "NIM_CACHE_PATH": str(directory / "cache"),
        "LADING_DATA_PATH": str(directory / "data"),
        "NIM_SERVER_PORT": "0",
        "LADING_HOST": "127.0.0.1",
        "NO_PROXY": "*",
    }
    return {**kept, **places, **changes}


@contextmanager
def running(
    arguments: list[str], environ: Mapping[str, str], log: Path, *, launcher: Sequence[str] = ()
) -> Iterator[Program]:
    """``lading`` with ``arguments``, become of ``launcher`` where one is given; killed at the end if it still runs."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [*launcher, sys.executable, "-m", "lading.cli", *arguments],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield Program(process, log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def run(
    arguments: list[str],
    environ: Mapping[str, str],
    *,
    directory: Path | None = None,
    seconds: float = 100,
    launcher: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """``lading`` to its end, with what it printed."""
    return subprocess.run(
        [*launcher, sys.executable, "-m", "lading.cli", *arguments],
        env=dict(environ),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
