"""The commands of docs/model-stores.md, run as they stand: fetched here, carried, served there with sockets denied."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import tiny_model
from tests.program import Program, environment, without_sockets
from tests.simulators.hub import HubSimulator
from tests.simulators.vllm_program import install

PAGE = Path(__file__).parents[1] / "docs" / "model-stores.md"
BINARIES = Path(sys.executable).parent
NAME = "Qwen/Qwen3-0.6B"


def blocks(heading: str) -> list[str]:
    """The shell blocks of a section."""
    section = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    (found,) = [each for each in section if each.startswith(heading + "\n")]
    return re.findall(r"^```sh\n(.*?)^```$", found, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("heading", "carried", "served"),
    [("The cache volume", "cache.tar", NAME), ("The model store", "store.tar", "my-model")],
)
def test_a_route_of_the_page_works_as_written(heading: str, carried: str, served: str, tmp_path: Path) -> None:
    connected, isolated = blocks(heading)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    path = f"{BINARIES}:/usr/bin:/bin"
    with HubSimulator() as hub:
        hub.add_model(NAME, tiny_model())
        environ = environment(here, PATH=path, HF_ENDPOINT=hub.endpoint)
        done = subprocess.run(["sh", "-ec", connected], cwd=here, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    (here / carried).rename(there / carried)
    environ = without_sockets(there, environment(there, PATH=f"{install(there / 'engine')}:{path}"))
    log = there / "log"
    script = isolated.replace("lading serve", "exec lading serve")
    with log.open("w") as file:
        process = subprocess.Popen(["sh", "-ec", script], cwd=there, env=environ, stdout=file, stderr=file, text=True)
    try:
        program = Program(process, log)
        program.wait_until_ready()
        assert program.get("/v1/models").json()["data"][0]["id"] == served
        assert program.stop() == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_the_page_has_a_block_for_each_side_of_each_route() -> None:
    assert [len(blocks(heading)) for heading in ("The cache volume", "The model store")] == [2, 2]
    assert os.linesep.join(blocks("The cache volume")).count("lading serve") == 1
