"""What a request for adapters comes to before the engine starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lading.adapters.places import Library
from lading.adapters.planned import plan_adapters
from lading.adapters.request import LoraRequest, parse_sources
from lading.backends.interface import LoraApi
from lading.cache.root import CacheRoot
from lading.errors import OfflineError, UsageError
from lading.events import Event, Note, Report
from lading.profiles.fit import Wish
from lading.sources.interface import Source
from lading.uri import ModelUri
from tests.adapters.adapters import adapter, write

API = LoraApi("/load", "/unload", host_slots=16)
MODEL = ModelUri.parse("hf://org/model")


def offline(uri: ModelUri, report: Report) -> Source:
    raise OfflineError(f"{uri} needs the network")


def library(report: Callable[[Event], None], tmp_path: Path) -> Library:
    return Library(offline, lambda: CacheRoot(tmp_path / "cache", is_writable=True), report)


@pytest.fixture
def events():
    return []


def planned(asked: LoraRequest, tmp_path: Path, events: list[Event], wish: Wish | None = None):
    return plan_adapters(asked, wish or Wish(), library(events.append, tmp_path), model=MODEL, api=API)


def test_nothing_asked_changes_nothing(tmp_path, events):
    plan, wish = planned(LoraRequest(max_rank=64), tmp_path, events)
    assert (plan.room, plan.places, wish) == (None, (), Wish())
    assert plan.keeper(None, tmp_path, events.append) is None
    assert events == []


def test_lora_without_adapters_is_told_what_was_set(tmp_path, events):
    plan, wish = planned(LoraRequest(max_rank=64), tmp_path, events, Wish(lora=True))
    assert plan.room.rank.value == wish.options.max_lora_rank == 64


def test_adapters_of_a_directory_are_sized_and_unreadable_ones_are_not_counted(tmp_path, events):
    write(tmp_path / "loras/a", adapter(64))
    write(tmp_path / "loras/b", {"adapter_config.json": b"{"})
    plan, wish = planned(LoraRequest(parse_sources(f"{tmp_path}/loras")), tmp_path, events)
    assert (wish.lora, wish.options.max_lora_rank, wish.options.max_loras) == (True, 64, 1)
    assert plan.keeper(None, tmp_path, events.append) is None
    assert [each.level for each in events if isinstance(each, Note)] == ["WARNING"]


def test_the_model_itself_is_no_adapter(tmp_path, events):
    with pytest.raises(UsageError, match="which is the model itself"):
        planned(LoraRequest(parse_sources("hf://org/model")), tmp_path, events)


def test_a_source_that_cannot_be_asked_ends_the_start_unless_it_is_watched(tmp_path, events):
    sources = parse_sources("hf://org/adapter")
    with pytest.raises(OfflineError):
        planned(LoraRequest(sources), tmp_path, events)
    plan, wish = planned(LoraRequest(sources, refresh_seconds=5), tmp_path, events)
    assert wish.options.max_lora_rank == 32
    assert "the LoRA adapters are not sized: hf://org/adapter needs the network" in events[-1].text
    assert len(plan.places) == 1
