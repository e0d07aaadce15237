"""Install the programs from PyPI that only tests run, each away from our packages: mitmproxy and Olah.

Each has a virtual environment of its own in the user's cache directory, made from its lock in ``requirements/`` and
named after the lock's digest, so that a new lock makes a new one. An environment counts from the moment that its last
file, ``installed``, is there; one that was left half-made is made again. It is made in its place, and not moved there,
because the programs in it hold its path; two that want to make it take turns.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import venv
from hashlib import sha256
from pathlib import Path

PROGRAMS = {"mitmdump": "mitmproxy", "olah-cli": "olah"}

_LOCKS = Path(__file__).parents[1] / "requirements"


def find(program: str) -> Path | None:
    """Where a program of :data:`PROGRAMS` is installed, or None."""
    environment = _environment(PROGRAMS[program])
    path = environment / "bin" / program
    return path if (environment / "installed").exists() and path.exists() else None


def main() -> int:
    """Install what is missing; one line for each."""
    for program, package in PROGRAMS.items():
        if find(program) is None and not _install(program, package):
            print(f"error: {program} could not be installed", file=sys.stderr)
            return 1
    return 0


def _install(program: str, package: str) -> bool:
    environment = _environment(package)
    environment.parent.mkdir(parents=True, exist_ok=True)
    with environment.with_name(f"{environment.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if find(program):
            return True
        venv.create(environment, clear=True, symlinks=True)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(environment / "bin/python")]
        done = subprocess.run([*pip, "install", "-qq", "--require-hashes", "-r", str(_lock(package))], check=False)
        if done.returncode:
            return False
        (environment / "installed").touch()
    print(f"installed {package} for tests: {environment}")
    return True


def _environment(package: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "lading-tests" / f"{package}-{sha256(_lock(package).read_bytes()).hexdigest()[:12]}"


def _lock(package: str) -> Path:
    return _LOCKS / f"{package}.txt"


if __name__ == "__main__":
    sys.exit(main())
