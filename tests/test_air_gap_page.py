"""The commands of docs/air-gap.md, run as they stand: packed here, carried, served there with sockets denied."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.models import tiny_model
from tests.program import Program, environment, without_sockets
from tests.simulators.hub import HubSimulator
from tests.simulators.vllm_program import install

PAGE = Path(__file__).parents[1] / "docs" / "air-gap.md"
PATH = f"{Path(sys.executable).parent}:/usr/bin:/bin"
NAME = "Qwen/Qwen3-0.6B"


def blocks() -> list[str]:
    """The shell blocks of the page."""
    return re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_bundle_route_works_as_written(tmp_path: Path) -> None:
    connected, isolated, volumes, signed = blocks()
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    with HubSimulator() as hub:
        hub.add_model(NAME, tiny_model())
        environ = environment(here, PATH=PATH, HF_ENDPOINT=hub.endpoint)
        subprocess.run(["sh", "-ec", connected], cwd=here, env=environ, check=True)
    for name, script in (("volumes", volumes), ("signed", signed)):
        (here / name).mkdir()
        environ = environment(here, PATH=PATH)
        done = subprocess.run(["sh", "-ec", script], cwd=here / name, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    checked = ["sha256sum", "--check", "models.tar.sha256"]
    subprocess.run(checked, cwd=here / "volumes", check=True)
    (here / "models.tar").rename(there / "models.tar")
    environ = without_sockets(there, environment(there, PATH=f"{install(there / 'engine')}:{PATH}"))
    log = there / "log"
    script = isolated.replace("lading serve", "exec lading serve")
    with log.open("w") as file:
        process = subprocess.Popen(["sh", "-ec", script], cwd=there, env=environ, stdout=file, stderr=file, text=True)
    try:
        program = Program(process, log)
        program.wait_until_ready()
        assert program.get("/v1/models").json()["data"][0]["id"] == NAME
        assert program.stop() == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
