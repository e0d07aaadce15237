"""A machine without a network: a network namespace of its own, where loopback alone is up and no route leads out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.program import Answer, Program, run, running

_LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
with socket.socket() as any_socket:  # loopback is down in a new namespace
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 1 | 64))  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING
os.execvp(sys.argv[1], sys.argv[1:])
"""
LAUNCHER = ("unshare", "--user", "--map-root-user", "--net", sys.executable, "-I", "-S", "-c", _LOOPBACK_UP)
_ASK = """
import base64, json, sys, urllib.error, urllib.request
url, body = json.load(sys.stdin)
request = urllib.request.Request(url, data=body.encode() if body else None, headers={"Content-Type": "application/json"})
try:
    answer = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120)
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps([answer.status, base64.b64encode(answer.read()).decode(), dict(answer.headers)]))
"""


class IsolatedProgram(Program):
    """A ``lading`` in a namespace; requests are sent from inside it."""

    def get(self, path: str, body: Any = None) -> Answer:
        inside = ["nsenter", f"--target={self.process.pid}", "--user", "--net", "--preserve-credentials"]
        asked = json.dumps([f"http://127.0.0.1:{self.port}{path}", json.dumps(body) if body else None])
        command = [*inside, sys.executable, "-I", "-S", "-c", _ASK]
        done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        status, encoded, headers = json.loads(done.stdout)
        return Answer(status, _decoded(encoded), headers)

    def assert_isolated(self) -> None:
        """Nothing but loopback is there, and no route."""
        devices = Path(f"/proc/{self.process.pid}/net/dev").read_text().splitlines()[2:]
        assert [each.partition(":")[0].strip() for each in devices] == ["lo"]
        assert Path(f"/proc/{self.process.pid}/net/route").read_text().count("\n") <= 1  # its heading


def _decoded(text: str) -> bytes:
    from base64 import b64decode

    return b64decode(text)


def require_isolation() -> None:
    """Skip the test where the kernel gives users no network namespace."""
    try:
        done = subprocess.run([*LAUNCHER, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare (util-linux) is not installed")
    if done.returncode:
        pytest.skip(f"this kernel gives no network namespace: {done.stderr.strip()}")


@contextmanager
def running_isolated(arguments: list[str], environ: Mapping[str, str], log: Path) -> Iterator[IsolatedProgram]:
    """``lading`` without a network; killed at the end if it still runs."""
    with running(arguments, environ, log, launcher=LAUNCHER) as program:
        yield IsolatedProgram(program.process, program.log)


def run_isolated(arguments: list[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """``lading`` without a network, to its end."""
    return run(arguments, environ, launcher=LAUNCHER)
