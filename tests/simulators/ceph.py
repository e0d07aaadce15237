"""A real Ceph cluster of one of each, in memory: its gateway is an S3 server that checks everything.

For machines that have Ceph (Debian: ``radosgw ceph-mon ceph-osd``), as root, as which its daemons insist to start.
Nothing outlives it: the daemons are children that die with this process, and all files lie in one temporary directory.
"""

import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin", "setpriv")
_START_SECONDS = 300
_CONFIGURATION = """
[global]
fsid = {fsid}
mon host = {monitor}
public addr = 127.0.0.1
log file = {root}/$name.log
admin socket =
run dir = {root}
keyring = {root}/keyring
mon data = {root}/mon
mon allow pool size one = true
mon data avail warn = 1
mon data avail crit = 1
mon osd full ratio = .99
osd data = {root}/osd
osd objectstore = memstore
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
memstore device bytes = 1073741824
[client.rgw]
rgw data = {root}/rgw
rgw dns name = localhost
"""


@dataclass(frozen=True, slots=True)
class Ceph:
    """A running gateway: buckets are in the path, or before ``localhost`` for whoever takes it as a proxy.

    The owner of the keys may assume ``role``, which may read, at ``token_endpoint``: a gateway to the same buckets that
    is a token service too. It takes its sessions alone, and answers wrong signatures less exactly.
    """

    endpoint: str
    token_endpoint: str
    access_key: str
    secret_key: str
    role: str


def lack() -> str | None:
    """Why no cluster can be started here; None where one can."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"Ceph is not installed (no {missing[0]}): apt-get install radosgw ceph-mon ceph-osd ceph-common"
    return None if os.geteuid() == 0 else "Ceph's daemons are started by root only"


@contextmanager
def cluster() -> Iterator[Ceph]:
    """A fresh cluster, and an account on it; takes some ten seconds. RuntimeError where it does not start."""
    with tempfile.TemporaryDirectory(prefix="ceph-") as root:
        start = _Start(Path(root))
        try:
            yield start.gateways()
        finally:
            for process in reversed(start.processes):
                process.kill()
                process.wait()


class _Start:
    """The steps from an empty directory to an account. ``processes`` are those that run by now."""

    def __init__(self, root: Path) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self._root = root
        self._deadline = time.monotonic() + _START_SECONDS
        ports = _free_ports(4)
        self._gateway_ports = ports[2:]
        self._fsid = str(uuid.uuid4())
        self._monitor = f"[v2:127.0.0.1:{ports[0]},v1:127.0.0.1:{ports[1]}]"
        text = _CONFIGURATION.format(fsid=self._fsid, monitor=self._monitor, root=root)
        (root / "ceph.conf").write_text(text)
        for name in ("mon", "osd", "rgw"):
            (root / name).mkdir()

    def gateways(self) -> Ceph:
        self._start_monitor()
        self._start_storage()
        plain, tokens = self._gateway_ports
        endpoints = (
            self._gateway(plain),
            self._gateway(tokens, "--rgw-s3-auth-use-sts=true", f"--rgw-sts-key={'k' * 16}"),
        )
        keys = "AKIATEST", "wJalrXUtnFEMI+bPxRfiCY/EXAMPLE=KEY"
        user = ["user", "create", "--uid=t", "--display-name=t"]
        self._run("radosgw-admin", *user, f"--access-key={keys[0]}", f"--secret-key={keys[1]}")
        return Ceph(*endpoints, *keys, self._make_role("reader"))

    def _gateway(self, port: int, *options: str) -> str:
        keyring = str(self._root / "rgw/keyring")
        listen = f"--rgw-frontends=beast endpoint=127.0.0.1:{port}"
        self._daemon("radosgw", "-f", "-n", "client.rgw", "--keyring", keyring, listen, *options)
        self._wait_until(lambda: _is_open("127.0.0.1", port))
        return f"http://127.0.0.1:{port}"

    def _make_role(self, name: str) -> str:
        trust = policy(["sts:AssumeRole"], Principal={"AWS": ["arn:aws:iam:::user/t"]})
        rights = policy(["s3:GetObject", "s3:ListBucket"], Resource=["arn:aws:s3:::*"])
        self._run("radosgw-admin", "role", "create", f"--role-name={name}", f"--assume-role-policy-doc={trust}")
        put = ["role-policy", "put", f"--role-name={name}", "--policy-name=rights"]
        self._run("radosgw-admin", *put, f"--policy-doc={rights}")
        return f"arn:aws:iam:::role/{name}"

    def _start_monitor(self) -> None:
        all_caps = [each for kind in ("mon", "osd", "mgr") for each in ("--cap", kind, "allow *")]
        keyring = self._keyring("keyring", "client.admin", *all_caps)
        self._run("ceph-authtool", keyring, "-g", "-n", "mon.", "--cap", "mon", "allow *")
        map_ = str(self._root / "monmap")
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", self._monitor, map_)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", map_, "--keyring", keyring)
        self._daemon("ceph-mon", "-f", "-i", "a")

    def _start_storage(self) -> None:
        """One store in memory, and the gateway's right to use it."""
        keyring = self._keyring("osd/keyring", "osd.0")
        key = json.dumps({"cephx_secret": self._run("ceph-authtool", "-p", "-n", "osd.0", keyring).decode().strip()})
        name = str(uuid.uuid4())
        self._run("ceph", "osd", "new", name, "-i", "-", given=key.encode())
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", name, "--keyring", keyring)
        self._daemon("ceph-osd", "-f", "-i", "0", "--keyring", keyring)
        rights = self._keyring("rgw/keyring", "client.rgw", "--cap", "mon", "allow rw", "--cap", "osd", "allow rwx")
        self._run("ceph", "auth", "import", "-i", rights)
        self._wait_until(lambda: json.loads(self._run("ceph", "osd", "stat", "-f", "json"))["num_up_osds"] == 1)

    def _keyring(self, path: str, name: str, *caps: str) -> str:
        """A keyring with a new key for ``name``."""
        place = str(self._root / path)
        self._run("ceph-authtool", "-C", place, "-g", "-n", name, *caps)
        return place

    def _run(self, program: str, *arguments: str, given: bytes = b"") -> bytes:
        done = subprocess.run(
            [program, *arguments], input=given, capture_output=True, env=self._environ, timeout=self._left_seconds
        )
        if done.returncode:
            raise RuntimeError(f"{program} {arguments}: {done.stderr.decode(errors='replace')[-2000:]}")
        return done.stdout

    def _daemon(self, program: str, *arguments: str) -> None:
        with (self._root / f"{program}.out").open("ab") as log:
            command = ["setpriv", "--pdeathsig", "KILL", program, *arguments]
            self.processes.append(subprocess.Popen(command, env=self._environ, stdout=log, stderr=log))

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            ended = [process for process in self.processes if process.poll() is not None]
            if ended or self._left_seconds <= 0:
                logs = {path.name: path.read_text(errors="replace")[-1000:] for path in self._root.glob("*.out")}
                raise RuntimeError(f"Ceph does not start: {logs}")
            time.sleep(0.1)

    @property
    def _environ(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "CEPH_CONF": str(self._root / "ceph.conf"), "HOME": str(self._root)}

    @property
    def _left_seconds(self) -> float:
        return self._deadline - time.monotonic()


def policy(actions: list[str], **about: object) -> str:
    """The document that allows ``actions``."""
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, **about}]})


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and below those that programs get which ask for any."""
    free: list[int] = []
    while len(free) < count:
        port = random.randrange(20_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            free += [port] if port not in free else []
    return free


def _is_open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 5).close()
    except OSError:
        return False
    return True
