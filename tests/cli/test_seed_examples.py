"""Every example command of the seeds that fetches without serving, run as written, the entry point in place of docker.

A row names the seed, the example's heading, and its command behind the image's name. What ``-e`` and ``-v`` of the example
give is given: variables by name, volumes as directories (``/opt/nim/.cache`` and the others are not this machine's).
The examples are those of model-specific images, whose manifest names the model; here ``NIM_MODEL_PATH`` does.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.models import tiny_model
from tests.program import environment
from tests.sources.contract.conftest import bare_environment, set_up
from tests.sources.contract.stand import NGC_KEY, ServedStand, Stand
from tests.sources.contract.stands import STANDS
from tests.sources.servers import TLS, ForwardProxy, TlsFront

__all__ = ["bare_environment"]

BINARIES = Path(sys.executable).parent
DOWNLOAD, AIR_GAP = "001 Model Download", "002 Air-Gap Deployment"
FILES = tiny_model()
BY_PROFILE = "download-to-cache --profile $NIM_MODEL_PROFILE"
BY_HASH = "download-to-cache -p <PROFILE_HASH>"
STORE = "create-model-store --model-cache-path /opt/nim/.cache --model-store /opt/nim/model-store --profile $NIM_MODEL_PROFILE"


@dataclass(frozen=True)
class Example:
    """An example of a seed. ``proxied``: it sets a proxy, which must then be the only way out."""

    seed: str
    heading: str
    command: str
    stand: str
    proxied: bool = False
    no_proxy: str = ""

    def __str__(self) -> str:
        return f"{self.seed}: {self.heading}"


EXAMPLES = [
    Example(DOWNLOAD, "Downloading from NGC", BY_PROFILE, "ngc"),
    Example(DOWNLOAD, "Downloading Behind a Corporate Proxy", BY_PROFILE, "ngc", proxied=True),
    Example(DOWNLOAD, "Downloading from Hugging Face", BY_PROFILE, "hf"),
    Example(DOWNLOAD, "Downloading from S3", BY_PROFILE, "s3"),
    Example(DOWNLOAD, "Downloading from GCS", BY_PROFILE, "gs"),
    Example(DOWNLOAD, "Downloading from ModelScope", BY_PROFILE, "modelscope"),
    Example(DOWNLOAD, "Preparing a Local Model Store", STORE, "ngc"),
    Example(DOWNLOAD, "Using a Local Model", BY_PROFILE, "local"),
    Example(DOWNLOAD, "Examples, Basic NGC Download", BY_PROFILE, "ngc"),
    Example(
        DOWNLOAD,
        "Examples, Download Behind Corporate Proxy",
        "download-to-cache --all",
        "ngc",
        no_proxy="localhost,127.0.0.1",
    ),
    Example(DOWNLOAD, "Examples, Basic Hugging Face Download", BY_PROFILE, "hf"),
    Example(DOWNLOAD, "Examples, Direct GCS URI in Manifest", BY_PROFILE, "gs"),
    Example(DOWNLOAD, "Examples, Create Model Store from NGC", STORE, "ngc"),
    Example(DOWNLOAD, "Examples, Basic ModelScope Download", BY_PROFILE, "modelscope"),
    Example(AIR_GAP, "Download a Model to Cache", BY_HASH, "ngc"),
    Example(AIR_GAP, "Create a Model Store", "create-model-store -p <PROFILE_HASH> -m /model-repo", "ngc"),
    Example(AIR_GAP, "CA Certificate Injection", BY_HASH, "ngc", proxied=True),
    Example(AIR_GAP, "Download and Create a Model Store, 2", 'download-to-cache -p "$PROFILE_HASH"', "ngc"),
    Example(
        AIR_GAP, "Download and Create a Model Store, 3", 'create-model-store -p "$PROFILE_HASH" -m /model-repo', "ngc"
    ),
    Example(AIR_GAP, "Use the Offline Cache, 2", 'download-to-cache -p "$PROFILE_HASH"', "ngc"),
]


class NamedFront(TlsFront):
    """TLS in front of a registry and of its storage, which has another name."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._context.load_cert_chain(TLS / "names.pem")


@pytest.fixture(params=EXAMPLES, ids=str)
def example(request: pytest.FixtureRequest) -> Example:
    found: Example = request.param
    return found


@pytest.fixture
def stand(
    example: Example,
    tmp_path: Path,
    bare_environment: pytest.MonkeyPatch,  # the fixture of that name
) -> Iterator[Stand]:
    assert example.stand in STANDS
    yield from set_up(example.stand, tmp_path, bare_environment, FILES)


def test_it_runs_as_written(example: Example, stand: Stand, tmp_path: Path) -> None:
    environ = environment(tmp_path, **stand.environ, PATH=f"{BINARIES}:/usr/bin:/bin", NIM_MODEL_PATH=str(stand.uri))
    with ExitStack() as stack:
        proxy = stack.enter_context(ForwardProxy())
        if example.proxied:
            assert isinstance(stand, ServedStand)
            front = stack.enter_context(NamedFront(stand.server.port))
            stand.server.endpoint, stand.server.cdn_endpoint = front.endpoint, f"https://localhost:{front.port}"
            environ |= {"NGC_CLI_API_URL": front.endpoint, "NGC_CLI_AUTH_URL": front.endpoint, "NGC_API_KEY": NGC_KEY}
            environ |= {"HTTPS_PROXY": proxy.url, "HTTP_PROXY": proxy.url, "SSL_CERT_FILE": str(TLS / "names-ca.pem")}
            environ["NO_PROXY"] = ""
        if example.no_proxy:
            environ |= {"HTTPS_PROXY": proxy.url, "HTTP_PROXY": proxy.url, "NO_PROXY": example.no_proxy}
        profile = first_profile(environ)
        environ |= {"NIM_MODEL_PROFILE": profile, "PROFILE_HASH": profile}
        volumes = {"/opt/nim/.cache": "cache", "/opt/nim/model-store": "model-store", "/model-repo": "model-repo"}
        command = example.command.replace("<PROFILE_HASH>", profile)
        for inside, outside in volumes.items():
            command = command.replace(inside, shlex.quote(str(tmp_path / outside)))
        done = subprocess.run(["sh", "-c", command], env=environ, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert profile in done.stdout
    assert bool([line for line in proxy.first_lines if line.startswith("CONNECT ")]) == example.proxied
    assert_arrived(example, tmp_path)


def first_profile(environ: dict[str, str]) -> str:
    """The id that ``list-model-profiles`` shows first, as the seeds tell to find one."""
    done = subprocess.run([BINARIES / "list-model-profiles", "--format", "json"], env=environ, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return next(each for each in _ids(json.loads(done.stdout)) if len(each) == 64)


def _ids(value: object) -> Iterator[str]:
    """Every ``id`` or ``profile_id`` in a JSON value, in order."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key in ("id", "profile_id") and isinstance(each, str):
                yield each
            yield from _ids(each)
    elif isinstance(value, list):
        for each in value:
            yield from _ids(each)


def assert_arrived(example: Example, tmp_path: Path) -> None:
    """The model is where the example says: a plain directory, or the cache; a local one stays where it is."""
    if example.command.startswith("create-model-store"):
        place = tmp_path / ("model-repo" if "/model-repo" in example.command else "model-store")
        assert {path.name: path.read_bytes() for path in place.iterdir()} == FILES
        assert not [path for path in place.iterdir() if path.is_symlink()]
        return
    blobs = [path.read_bytes() for path in (tmp_path / "cache").glob("blobs/sha256/*/*")]
    assert sorted(blobs) == ([] if example.stand == "local" else sorted(FILES.values()))
