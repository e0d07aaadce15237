"""Sources that are connected when they are first asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from lading.errors import UsageError
from lading.settings import Settings
from lading.sources import source_for
from lading.sources.deferred import deferred
from lading.sources.interface import Source
from lading.uri import ModelUri
from tests.models import tiny_model
from tests.simulators.hub import HubSimulator

TINY = ModelUri.parse("hf://demo/tiny")


def test_a_source_behaves_as_itself_and_is_connected_once() -> None:
    made: list[Source] = []
    with HubSimulator() as hub:
        hub.add_model("demo/tiny", tiny_model())
        settings = Settings.from_env({"HF_ENDPOINT": hub.endpoint, "NO_PROXY": "*"})

        def connect() -> Source:
            made.append(source_for(TINY, settings))
            return made[-1]

        source = deferred(TINY, connect)
        assert not source.in_place
        assert made == []
        listed = source.list_files(TINY)
        assert listed == made[0].list_files(TINY)
        entry = listed.find("tokenizer.json")
        assert entry
        assert source.local_copy(entry) is None
        assert source.access(TINY) == made[0].access(TINY)
        with source.open_range(entry, 0, entry.size_bytes) as reader:
            assert reader.readinto(memoryview(bytearray(10))) == 2
    assert len(made) == 1


def test_a_credential_is_looked_at_when_somebody_is_asked_with_it() -> None:
    settings = Settings.from_env({"HF_TOKEN": "no token"})
    source = deferred(TINY, lambda: source_for(TINY, settings))
    with pytest.raises(UsageError, match="HF_TOKEN"):
        source.list_files(TINY)
    assert settings.without_secrets().hf_token is None
    assert settings.without_secrets().hf_endpoint == settings.hf_endpoint


def test_a_directory_is_connected_at_once(tmp_path: Path) -> None:
    model = ModelUri.parse(str(tmp_path))
    assert deferred(model, lambda: source_for(model, Settings.from_env({}))).in_place
