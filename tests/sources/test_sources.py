"""The one mapping from a location to its source."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from lading.errors import OfflineError, UsageError
from lading.settings import Settings
from lading.sources import about_sources, source_for
from lading.uri import ModelUri, Scheme
from tests.simulators.hub import HubSimulator
from tests.sources.cache_layout import lay_out
from tests.sources.servers import ForwardProxy, assert_hidden

TINY = ModelUri.parse("hf://demo/tiny")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b"{}", "model.safetensors": b"weights"}


def settings(environ: Mapping[str, str] | None = None) -> Settings:
    return Settings.from_env(environ or {})


@pytest.mark.parametrize(
    "text",
    [
        "hf://demo/tiny",
        "hf://demo/tiny:v1?file=a",
        "ngc://org/team/model:v1",
        "s3://bucket/x",
        "gs://bucket/x",
        "modelscope://a/b",
        "az://account/container/x",
        "https://host/x",
        "/models/tiny",
        "local:///models/tiny",
    ],
)
def test_hubs_stores_and_directories_are_read(text: str) -> None:
    source = source_for(ModelUri.parse(text), settings())
    assert source.in_place is text.startswith(("/", "local"))


def test_every_scheme_has_a_source_that_says_what_it_is() -> None:
    about = about_sources()
    assert set(about) == set(Scheme) - {Scheme.MANIFEST}, "what a manifest lists comes from the others"
    for each in about.values():
        assert each.credentials[-1].startswith("none")
        assert not [text for text in (each.title, each.endpoint, each.checksum, *each.notes) if text.endswith(".")]


def test_the_settings_of_the_hub_reach_it() -> None:
    with HubSimulator() as hub, ForwardProxy("user:hunter2") as proxy:
        commit = hub.add_model("demo/tiny", FILES, private=True)
        hub.require_token("hf_abc")
        environ = {
            "HF_ENDPOINT": hub.endpoint + "/",
            "HF_TOKEN": "hf_abc\n",
            "http_proxy": proxy.url_with("user:hunter2"),
            "NO_PROXY": "localhost",
        }
        source = source_for(TINY, settings(environ))
        manifest = source.list_files(TINY)
        assert manifest.revision == commit
        seen = len(proxy.heads)
        assert seen == 2
        with source.open_range(manifest.files[1], 0, 7) as body:
            buffer = memoryview(bytearray(7))
            assert body.readinto(buffer) == 7
        assert bytes(buffer) == b"weights"
        assert len(proxy.heads) == seen + 1
        assert hub.leaked_credentials == []


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "HF_HOME and hub"])
def test_offline_is_served_from_the_hugging_face_cache(tmp_path: Path, variable: str) -> None:
    root = tmp_path / "hub" if variable == "HF_HOME and hub" else tmp_path
    lay_out(root, "demo/tiny", COMMIT, FILES)
    environ = {"HF_HUB_OFFLINE": "1", variable.partition(" ")[0]: str(tmp_path)}
    manifest = source_for(TINY, settings(environ)).list_files(TINY)
    assert manifest.revision == COMMIT
    with pytest.raises(OfflineError):
        source_for(TINY, settings(environ)).list_files(ModelUri.parse("hf://demo/other"))


def test_settings_that_cannot_be_used_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="HF_TOKEN") as caught:
        source_for(TINY, settings({"HF_TOKEN": "hf_abc def"}))
    assert_hidden(caught.value, "hf_abc")
    with pytest.raises(UsageError, match="HF_ENDPOINT"):
        source_for(TINY, settings({"HF_ENDPOINT": "https://"}))


def test_importing_the_mapping_loads_nothing_heavy() -> None:
    program = (
        "import sys, lading.sources; print([m for m in ('urllib3', 'ssl', 'http.client', 'email') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-B", "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_making_a_source_loads_no_http_library() -> None:
    program = (
        "import sys; from lading.sources import source_for; from lading.settings import Settings\n"
        "from lading.uri import ModelUri\n"
        "source_for(ModelUri.parse('hf://a/b'), Settings.from_env({})); print('urllib3' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-B", "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
