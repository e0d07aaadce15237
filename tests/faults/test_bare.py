"""Filesystems without links and without locks: the whole program, as it is on some network mounts and in some containers."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.faults.harness import MODEL, CountingHub
from tests.faults.rules import assert_valid
from tests.faults.shim import BARE, Refusal, Shim
from tests.models import tiny_model
from tests.program import environment, run, running
from tests.simulators.vllm_program import install

FILES = tiny_model()
PLACES = {
    "no links and no locks": BARE,
    "no symbolic links": (Refusal("symlink", errno.EPERM),),
    "no links": (Refusal("symlink", errno.ENOSYS), Refusal("link", errno.EOPNOTSUPP)),
    "no locks": (Refusal("flock", errno.ENOSYS),),
    "no reservation, no modes, no sync of directories": (
        Refusal("fallocate", errno.EOPNOTSUPP),
        Refusal("sync", errno.EINVAL, "*/blobs/sha256/??"),
        Refusal("sync", errno.EINVAL, "*/index"),
        Refusal("utime", errno.EPERM),
    ),
}


@pytest.mark.parametrize("refusals", PLACES.values(), ids=PLACES)
def test_a_model_is_served_and_served_again(
    refusals: tuple[Refusal, ...], hub: CountingHub, shim: Shim, tmp_path: Path
) -> None:
    hub.add_model("demo/tiny", FILES)
    cache = tmp_path / "cache"
    (tmp_path / "home").mkdir()
    path = f"{install(tmp_path / 'engine')}:{os.environ['PATH']}"
    environ = environment(tmp_path, HF_ENDPOINT=hub.endpoint, PATH=path, **shim.variables(cache, *refusals))
    for number in (1, 2):
        asked = len(hub.requests)
        with running([MODEL], environ, tmp_path / f"{number}.log") as program:
            program.wait_until_ready()
            assert program.get("/v1/models").json()["data"][0]["id"] == "demo/tiny"
            assert program.stop() == 0
        assert number == 1 or len(hub.requests) == asked
        assert_valid(cache, FILES)
        assert not list(cache.glob("locks/*.lease"))
    assert run(["cache", "verify"], environ).returncode == 0
    assert run(["cache", "gc"], environ).returncode == 0
    assert run(["cache", "remove", MODEL], environ).returncode == 0
    assert list(cache.glob("blobs/sha256/*/*")) == []
    assert list(cache.glob("workspaces/*")) == []
