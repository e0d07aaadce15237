"""The commands of docs/air-gap.md, run as they stand: fetched here, carried, served there with sockets denied."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.models import tiny_model, write_model
from tests.program import Program, environment, socket_uses, without_sockets
from tests.simulators.hub import HubSimulator
from tests.simulators.vllm_program import install

PAGE = Path(__file__).parents[1] / "docs" / "air-gap.md"
PATH = f"{Path(sys.executable).parent}:/usr/bin:/bin"
NAME = "Qwen/Qwen3-0.6B"


def blocks(heading: str) -> list[str]:
    """The shell blocks of a chapter."""
    chapters = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    (found,) = [each for each in chapters if each.startswith(heading + "\n")]
    return re.findall(r"^```sh\n(.*?)^```$", found, re.MULTILINE | re.DOTALL)


@contextmanager
def served(script: str, directory: Path, environ: Mapping[str, str]) -> Iterator[Program]:
    """A script that ends in ``lading serve``, once it is ready."""
    log = directory / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            ["sh", "-ec", script.replace("lading serve", "exec lading serve")],
            cwd=directory,
            env=dict(environ),
            stdout=file,
            stderr=file,
            text=True,
        )
    try:
        program = Program(process, log)
        program.wait_until_ready()
        yield program
        assert program.stop() == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def name_of(program: Program) -> str:
    (found,) = program.get("/v1/models").json()["data"]
    return str(found["id"])


@dataclass
class Sides:
    here: Path
    there: Path

    @property
    def environ_there(self) -> dict[str, str]:
        path = f"{self.there / 'engine/bin'}:{PATH}"
        return without_sockets(self.there, environment(self.there, PATH=path))

    def run_here(self, script: str, directory: Path | None = None) -> None:
        """A script of the connected side."""
        with HubSimulator() as hub:
            hub.add_model(NAME, tiny_model())
            environ = environment(self.here, PATH=PATH, HF_ENDPOINT=hub.endpoint)
            command = ["sh", "-ec", script]
            done = subprocess.run(command, cwd=directory or self.here, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def serve_there(self, script: str, name: str) -> None:
        """A script of the isolated side: it serves, and no socket was tried."""
        with served(script, self.there, self.environ_there) as program:
            assert name_of(program) == name
        assert socket_uses(self.there) == []


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    install(tmp_path / "there/engine")
    return Sides(tmp_path / "here", tmp_path / "there")


def test_the_bundle_route_works_as_written(sides: Sides) -> None:
    connected, isolated, volumes, signed = blocks("A bundle")
    sides.run_here(connected)
    for name, script in (("volumes", volumes), ("signed", signed)):
        (sides.here / name).mkdir()
        sides.run_here(script, sides.here / name)
    checked = ["sha256sum", "--check", "models.tar.sha256"]
    subprocess.run(checked, cwd=sides.here / "volumes", check=True)
    (sides.here / "models.tar").rename(sides.there / "models.tar")
    sides.serve_there(isolated, NAME)


@pytest.mark.parametrize(
    ("heading", "carried", "name"),
    [("The cache", "cache.tar", NAME), ("A model store", "store.tar", "my-model")],
)
def test_what_is_carried_by_tar_is_served_as_written(heading: str, carried: str, name: str, sides: Sides) -> None:
    connected, isolated = blocks(heading)
    sides.run_here(connected)
    (sides.here / carried).rename(sides.there / carried)
    sides.serve_there(isolated, name)


def test_a_directory_is_served_as_written(sides: Sides) -> None:
    (script,) = blocks("A directory of yours")
    write_model(sides.there / "models/mine", tiny_model())
    sides.serve_there(script, "my-model")


def test_a_volume_that_stays_is_served_as_written(sides: Sides) -> None:
    connected, isolated = blocks("A volume that stays")
    with HubSimulator() as hub:
        hub.add_model(NAME, tiny_model())
        path = sides.environ_there["PATH"]
        environ = environment(sides.there, PATH=path, HF_ENDPOINT=hub.endpoint)
        with served(connected, sides.there, environ) as program:
            assert name_of(program) == NAME
    sides.serve_there(isolated, NAME)


def test_every_block_of_the_page_is_run() -> None:
    chapters = ("A bundle", "The cache", "A model store", "A directory of yours", "A volume that stays")
    assert sum(len(blocks(each)) for each in chapters) == len(re.findall(r"^```sh$", PAGE.read_text(), re.MULTILINE))
