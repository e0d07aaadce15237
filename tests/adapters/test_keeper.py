"""The keeper against a real HTTP server that speaks vLLM's API, with adapters in real directories."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from lading.adapters.adapter import Adapter
from lading.adapters.engine import EngineAdapters
from lading.adapters.keeper import AdapterKeeper, Base
from lading.adapters.places import Directory, Place
from lading.backends.interface import Endpoint
from lading.backends.vllm import VllmBackend
from lading.errors import SourceUnreachable, UsageError
from lading.events import AdaptersChanged, Event, Note
from lading.secret import Secret
from tests.adapters.adapters import adapter, write
from tests.model.test_lora import BASE
from tests.simulators.vllm_program import Adapters, PortServer
from tests.supervisor.test_supervisor import eventually


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """An engine, a directory of adapters, and what was reported."""

    server: PortServer
    loras: Path
    room: Path
    clock: Clock = field(default_factory=Clock)
    events: list[Event] = field(default_factory=list)
    api_seconds: float = 30.0

    @property
    def settings(self) -> dict[str, Any]:
        return self.server.settings

    @property
    def loaded(self) -> dict[str, str]:
        assert self.server.adapters
        return self.server.adapters.paths

    @property
    def notes(self) -> list[str]:
        return [each.text for each in self.events if isinstance(each, Note)]

    @property
    def shown(self) -> AdaptersChanged:
        return [each for each in self.events if isinstance(each, AdaptersChanged)][-1]

    def keeper(self, *places: Place, refresh_seconds: float | None = 3600, key: str = "") -> AdapterKeeper:
        endpoint = Endpoint(port=self.server.server_address[1])
        api = VllmBackend.lora_api
        assert api
        engine = EngineAdapters(endpoint, api, self.api_seconds, Secret(key) if key else None)
        found = places or (Directory(self.loras, "loras", may_come=True),)
        base = Base(engine, BASE, ("tiny",), 16)
        keeper = AdapterKeeper(
            found, base, self.room, self.events.append, refresh_seconds=refresh_seconds, clock=self.clock
        )
        keeper.prepare(threading.Event())
        return keeper

    def settle(self, keeper: AdapterKeeper) -> None:
        """Two looks: the first sees what changed, the second that it is done."""
        keeper.sync()
        keeper.sync()


@pytest.fixture
def world(tmp_path):
    (tmp_path / "loras").mkdir()
    settings: dict[str, Any] = {}
    with PortServer(("127.0.0.1", 0), "tiny", settings) as server:
        server.adapters = Adapters(settings, 16)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield World(server, tmp_path / "loras", tmp_path / "room")
        server.shutdown()
        thread.join()


def test_what_is_there_is_loaded_from_a_copy_and_shown(world):
    write(world.loras / "a", adapter())
    write(world.loras / "broken", {"adapter_config.json": b""})
    with world.keeper() as keeper:
        assert keeper.begin()
        assert list(world.loaded) == ["a"]
        assert Path(world.loaded["a"]).parent == world.room
        assert world.shown == AdaptersChanged(("a",), 1)
        keeper.sync()
        assert sum("broken" in text for text in world.notes) == 1


def test_a_version_that_the_engine_refuses_gives_way_to_the_one_before(world):
    write(world.loras / "a", adapter(seed=1))
    keeper = world.keeper()
    keeper.sync()
    before = world.loaded["a"]
    write(world.loras / "a", adapter(seed=2))
    fault_of = world.server.adapters.fault_of
    world.server.adapters.fault_of = lambda name, path: "" if path == before else "no"
    world.settle(keeper)
    assert world.loaded == {"a": before}
    assert any("the engine says: no; the version before stays" in text for text in world.notes)
    assert world.shown == AdaptersChanged(("a",), 1)
    assert [path.name for path in world.room.iterdir()] == [Path(before).name]
    world.server.adapters.fault_of = fault_of
    write(world.loras / "a", adapter(seed=3))
    world.settle(keeper)
    assert world.loaded["a"] != before


def test_a_version_before_that_cannot_be_loaded_again_is_said(world):
    write(world.loras / "a", adapter(seed=1))
    keeper = world.keeper()
    keeper.sync()
    world.settings["refused_adapters"] = ["a"]
    write(world.loras / "a", adapter(seed=2))
    world.settle(keeper)
    assert world.loaded == {}
    assert any("the version before cannot be loaded again" in text for text in world.notes)
    assert world.shown == AdaptersChanged((), 1)


def test_the_same_bytes_written_again_load_nothing(world):
    write(world.loras / "a", adapter())
    keeper = world.keeper()
    keeper.sync()
    noted = len(world.notes)
    shutil.rmtree(world.loras / "a")
    write(world.loras / "a", adapter())
    world.settle(keeper)
    assert len(world.notes) == noted
    assert world.shown == AdaptersChanged(("a",), 0)


def test_an_engine_that_does_not_answer_in_time_is_asked_again_at_the_next_look(world):
    world.api_seconds = 0.2
    world.settings["adapter_seconds"] = 0.6
    write(world.loras / "a", adapter())
    keeper = world.keeper()
    keeper.sync()
    assert any("did not answer within 0.2 s; NIM_PEFT_API_TIMEOUT_SECS" in text for text in world.notes)
    assert world.shown == AdaptersChanged((), 1)
    assert eventually(lambda: "a" in world.loaded)
    world.settings["adapter_seconds"] = 0
    keeper.sync()
    assert world.shown == AdaptersChanged(("a",), 0)


def test_an_engine_that_is_gone_is_said_once(world):
    write(world.loras / "a", adapter())
    keeper = world.keeper()
    world.server.shutdown()
    world.server.server_close()
    keeper.sync()
    keeper.sync()
    assert sum("is not loaded: the engine cannot be asked" in text for text in world.notes) == 1


def test_what_somebody_else_unloaded_is_gone_and_an_engine_that_keeps_one_is_said_once(world):
    write(world.loras / "a", adapter())
    write(world.loras / "b", adapter())
    keeper = world.keeper(key="secret")
    keeper.sync()
    world.loaded.pop("a")
    world.settings["api_key"] = "other"
    shutil.rmtree(world.loras / "a")
    shutil.rmtree(world.loras / "b")
    keeper.sync()
    keeper.sync()
    assert sum("LoRA adapter b cannot be unloaded: the engine says: 401" in text for text in world.notes) == 1
    world.settings["api_key"] = "secret"
    keeper.sync()
    assert world.loaded == {}
    assert world.shown == AdaptersChanged((), 0)


def test_of_two_of_one_name_the_first_counts(world, tmp_path):
    write(world.loras / "a", adapter(seed=1))
    other = write(tmp_path / "other/a", adapter(seed=2)).parent
    places = [Directory(path, "x", may_come=True) for path in (world.loras, other)]
    keeper = world.keeper(*places)
    world.settle(keeper)
    assert world.shown == AdaptersChanged(("a",), 1)
    assert sum(f"skipped: another of that name is in {world.loras}/a" in text for text in world.notes) == 1
    shutil.rmtree(world.loras / "a")
    world.settle(keeper)
    assert world.shown == AdaptersChanged(("a",), 0)


@dataclass(eq=False)
class Told:
    """A place that is as it is told to be."""

    answer: Callable[[], tuple[Adapter, ...]]

    def configs(self) -> list[bytes]:
        return []

    def look(self, cancelled: threading.Event) -> tuple[Adapter, ...]:
        return self.answer()

    def close(self) -> None:
        pass


def test_a_place_that_cannot_be_looked_at_keeps_what_it_had(world):
    write(world.loras / "a", adapter())
    real = Directory(world.loras, "x", may_come=True)
    place = Told(lambda: real.look(threading.Event()))
    keeper = world.keeper(place)
    keeper.sync()

    def fails() -> tuple[Adapter, ...]:
        raise SourceUnreachable("the hub is away")

    place.answer = fails
    world.settle(keeper)
    assert list(world.loaded) == ["a"]
    assert sum("the hub is away; its LoRA adapters stay" in text for text in world.notes) == 1


def test_a_place_that_is_looked_at_once_has_to_answer(world):
    missing = Directory(world.loras / "none", "x", may_come=False)
    with pytest.raises(UsageError):
        world.keeper(missing, refresh_seconds=None)


def changing(world: World, looks: int) -> Told:
    """Adapter ``a``, another one at each of the first looks."""
    write(world.loras / "a", adapter())
    (seen,) = Directory(world.loras, "x", may_come=True).look(threading.Event())
    marks = iter(map(str, range(looks)))
    return Told(lambda: (replace(seen, mark=next(marks, seen.mark)),))


def test_one_that_is_being_written_is_waited_for_at_the_start(world):
    keeper = world.keeper(changing(world, 2), refresh_seconds=None)
    keeper.begin()
    assert list(world.loaded) == ["a"]


def test_one_that_is_being_written_when_the_service_stops_is_not_waited_for(world):
    keeper = world.keeper(changing(world, 1000), refresh_seconds=None)
    keeper.stop()
    keeper.begin()
    assert world.loaded == {}
    assert any("it is still being written" in text for text in world.notes)


def test_one_that_changed_after_the_look_waits_for_the_next(world):
    write(world.loras / "a", adapter())
    (seen,) = Directory(world.loras, "x", may_come=True).look(threading.Event())
    keeper = world.keeper(Told(lambda: (replace(seen, mark="older"),)))
    world.settle(keeper)
    assert world.loaded == {}
    assert not any("skipped" in text for text in world.notes)


def test_a_disk_that_takes_nothing_is_said_once_and_tried_again(world):
    write(world.loras / "a", adapter())
    world.room.write_bytes(b"")
    keeper = world.keeper()
    world.settle(keeper)
    assert sum("LoRA adapter a of" in text and "is not loaded" in text for text in world.notes) == 1
    world.room.unlink()
    keeper.sync()
    assert list(world.loaded) == ["a"]


def test_what_was_unloaded_stays_for_an_hour(world):
    write(world.loras / "a", adapter(seed=1))
    keeper = world.keeper()
    keeper.sync()
    old = Path(world.loaded["a"])
    write(world.loras / "a", adapter(seed=2))
    world.settle(keeper)
    world.clock.now = 3599
    keeper.sync()
    assert old.exists()
    world.clock.now = 3600
    keeper.sync()
    assert not old.exists()
    assert Path(world.loaded["a"]).exists()


def test_watching_ends_with_the_service(world):
    keeper = world.keeper(refresh_seconds=0.05)
    keeper.begin()
    write(world.loras / "a", adapter())
    assert eventually(lambda: list(world.loaded) == ["a"])
    keeper.stop()
    assert eventually(lambda: not any(each.name == "lading-adapters" for each in threading.enumerate()))
