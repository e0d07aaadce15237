"""What the fault suite runs: a hub that counts what it sends, downloads as child processes, and one small model."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.program import environment
from tests.simulators.faults import Send, Step
from tests.simulators.hub import HubSimulator
from tests.simulators.server import Call

ROOT = Path(__file__).parents[2]
NAME = "demo/tiny"
MODEL = f"hf://{NAME}"
PART_BYTES = 64 << 10
_PIECE_BYTES = 16 << 10

_dice = random.Random(11)
FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "model-00001-of-00002.safetensors": _dice.randbytes(14 * PART_BYTES + 17),
    "model-00002-of-00002.safetensors": _dice.randbytes(5 * PART_BYTES),
    "tokenizer.json": _dice.randbytes(70_000),
    "empty.txt": b"",
}
TOTAL_BYTES = sum(map(len, FILES.values()))
DIGESTS = {path: f"sha256:{hashlib.sha256(data).hexdigest()}" for path, data in FILES.items()}
QUICK: Mapping[str, Any] = {
    "part_bytes": PART_BYTES,
    "run_bytes": PART_BYTES,
    "connections": 3,
    "journal_seconds": 0.01,
    "first_delay_seconds": 0.01,
    "lock_wait_seconds": 100,
}


class CountingHub(HubSimulator):
    """A hub that knows how many bytes of files left it, and calls ``on_sent`` with the number after every piece.

    ``gate`` holds all bodies back until it is set.
    """

    def __init__(self, *, port: int = 0) -> None:
        self.sent_bytes = 0
        self.on_sent: Callable[[int], object] = lambda _: None
        self.gate = threading.Event()
        self.gate.set()
        self._counting = threading.Lock()
        self._open_bodies = 0
        super().__init__(port=port)

    def respond(self, call: Call) -> tuple[Any, Iterator[Step]]:
        response, steps = super().respond(call)
        is_of_file = call.host == "cdn" or (response.status in {200, 206} and "/resolve" in call.path)
        return response, self._counted(steps) if is_of_file else steps

    def stop(self) -> None:
        self.gate.set()
        super().stop()

    def settled_bytes(self) -> int:
        """What was sent, once the connections of processes that are gone were noticed to be."""
        eventually(lambda: self._open_bodies == 0)
        return self.sent_bytes

    def _counted(self, steps: Iterator[Step]) -> Iterator[Step]:
        with self._counting:
            self._open_bodies += 1
        try:
            yield from self._in_pieces(steps)
        finally:
            with self._counting:
                self._open_bodies -= 1

    def _in_pieces(self, steps: Iterator[Step]) -> Iterator[Step]:
        for step in steps:
            if not isinstance(step, Send):
                yield step
                continue
            for start in range(step.start, step.stop, _PIECE_BYTES):
                self.gate.wait()
                piece = Send(start, min(start + _PIECE_BYTES, step.stop), step.inverted)
                yield piece
                with self._counting:
                    self.sent_bytes += piece.stop - piece.start
                    sent = self.sent_bytes
                self.on_sent(sent)


@contextmanager
def serving(files: Mapping[str, bytes | Path] = FILES, name: str = NAME, *, port: int = 0) -> Iterator[CountingHub]:
    """A hub with one model."""
    with CountingHub(port=port) as hub:
        hub.add_model(name, files)
        yield hub


@dataclass
class Child:
    """A download in a process of its own, with what it said."""

    process: subprocess.Popen[bytes]
    log: Path
    out: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Until it said ``text``; fails when it ends or does not."""
        deadline = time.monotonic() + seconds
        while text not in self.said:
            has_ended = self.process.poll() is not None and text not in self.said
            assert not has_ended and time.monotonic() < deadline, f"{text!r} was not said:\n{self.said}"
            time.sleep(0.005)

    def end(self, seconds: float = 100) -> int:
        """Its exit code, negative for a signal."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL, and it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def result(self) -> dict[str, Any]:
        """What it printed, after it ended well."""
        assert self.end() == 0, self.said
        found: dict[str, Any] = json.loads(self.out.read_text())
        return found

    def assert_right(self, digests: Mapping[str, str] = DIGESTS) -> None:
        assert self.result()["digests"] == digests


class Children:
    """Starts downloads; :meth:`close` kills those that still run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._all: list[Child] = []
        (directory / "home").mkdir(exist_ok=True)

    def start(
        self,
        hub: HubSimulator,
        cache: Path,
        variables: Mapping[str, str] | None = None,
        *,
        model: str = MODEL,
        options: Mapping[str, Any] = QUICK,
    ) -> Child:
        """A download of ``model`` into ``cache``, with more ``variables`` in its environment."""
        number = len(self._all)
        log, out = self._directory / f"child-{number}.log", self._directory / f"child-{number}.out"
        environ = environment(self._directory, HF_ENDPOINT=hub.endpoint, **(variables or {}))
        with log.open("wb") as said, out.open("wb") as printed:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.child", str(cache), model, json.dumps(dict(options))],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=said,
            )
        self._all.append(Child(process, log, out))
        return self._all[-1]

    def close(self) -> None:
        for child in self._all:
            if child.process.poll() is None:
                child.kill()


def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    """Return once the condition holds; fails after the seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
