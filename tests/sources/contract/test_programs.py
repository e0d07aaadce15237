"""The programs that a user runs, on every stand: what they print, how they are seen by others, that they work at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.models import tiny_model
from tests.program import environment, run, running, without_sockets
from tests.simulators.faults import CutAfter, Status
from tests.simulators.server import Reply
from tests.simulators.vllm_program import install
from tests.sources.contract.conftest import set_up
from tests.sources.contract.stand import ServedStand, Stand, shown_forms
from tests.sources.contract.stands import STANDS

LISTABLE = [name for name, kind in STANDS.items() if kind.can_list and name != "path"]  # which is "local" here
WEIGHTS = "model-00001-of-00002.safetensors"


@pytest.fixture(params=LISTABLE)
def stand(request, tmp_path, bare_environment):
    """A stand that holds a model that can be served, of every scheme whose models can be listed."""
    yield from set_up(request.param, tmp_path, bare_environment, tiny_model())


@pytest.fixture
def environ(stand, tmp_path):
    engine = install(tmp_path / "engine")
    return environment(
        tmp_path, **stand.environ, PATH=f"{engine}:{os.environ['PATH']}", NIM_LOG_LEVEL="DEBUG", STAND_IN="{}"
    )


def assert_hidden_in(text: str, stand: Stand) -> None:
    assert [each for secret in stand.secrets for each in shown_forms(secret) if each in text] == [], text


def command_lines(parent: int) -> str:
    """The command lines of a process and of all that it started, as anybody on the machine sees them."""
    found = []
    waiting = [parent]
    while waiting:
        number = waiting.pop()
        try:
            found.append(Path(f"/proc/{number}/cmdline").read_bytes().decode(errors="replace"))
            for task in Path(f"/proc/{number}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue  # it ended meanwhile
    return "\n".join(found)


def test_profiles_are_listed_and_a_dry_run_is_shown_without_a_secret(stand, environ):
    for arguments in (["list-model-profiles", str(stand.uri)], ["serve", str(stand.uri), "--dry-run", "--debug"]):
        done = run(arguments, environ)
        assert done.returncode == 0, done.stderr
        assert_hidden_in(done.stdout + done.stderr, stand)
        assert "vllm" in done.stdout


def test_a_model_is_served_without_a_secret_on_any_command_line_or_disk(stand, environ, tmp_path):
    if isinstance(stand, ServedStand):
        stand.fault(WEIGHTS, CutAfter(1000), Status(503, retry_after=0))
    with running(["serve", str(stand.uri), "--debug"], environ, tmp_path / "log") as program:
        program.wait_until_ready()
        seen = command_lines(program.process.pid)
        assert seen.count("vllm") > 0 or not Path("/proc/self/task").exists()
        assert_hidden_in(seen, stand)
        assert program.stop() == 0
    assert_hidden_in(program.output, stand)
    for path in [*(tmp_path / "cache").rglob("*"), *(tmp_path / "data").rglob("*")]:
        if path.is_file():
            assert_hidden_in(f"{path}\n{path.read_bytes().decode('latin-1')}", stand)


def test_a_refusal_is_shown_without_a_secret(stand, environ):
    """With ``--debug`` the traceback is shown, and all the errors that led to it."""
    if isinstance(stand, ServedStand):
        stand.server.interpose = lambda _: Reply(403, {}, b"no")
    else:
        stand.files = {}
        stand.publish()
    short = run(["list-model-profiles", str(stand.uri)], environ)
    assert short.returncode == 3
    assert short.stderr.splitlines()[-1].startswith(("try: ", "     "))
    assert_hidden_in(short.stdout + short.stderr, stand)
    long = run(["serve", str(stand.uri), "--debug"], environ)
    assert "Traceback" in long.stderr
    assert_hidden_in(long.stdout + long.stderr, stand)


def test_offline_nothing_connects(stand, environ, tmp_path):
    if not isinstance(stand, ServedStand):
        pytest.skip("a directory needs no network")
    offline = without_sockets(tmp_path, environ | {"LADING_OFFLINE": "1"})
    done = run(["serve", str(stand.uri)], offline)
    assert done.returncode == 3, done.stderr
    assert "unset LADING_OFFLINE" in done.stderr
    assert (stand.line.connections, stand.requests) == (0, [])
    assert_hidden_in(done.stdout + done.stderr, stand)
