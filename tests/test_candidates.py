"""What is looked at where a manifest lists several sets of files, and what is told of those that cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from lading.backends.interface import Installation
from lading.cache.root import open_cache
from lading.candidates import Candidates, Named, Scope, Surroundings, consider
from lading.errors import ModelNotFound, UsageError
from lading.events import Report, ignore
from lading.hardware.inventory import Device, Inventory
from lading.model.listed import ListedFile, ListedProfile, ProfileManifest
from lading.model.manifest import Manifest
from lading.profiles.fit import Verdict, Wish
from lading.recall import Consultation, Refresh
from lading.resolve import Machine
from lading.sources.interface import Source
from lading.units import GIB
from lading.uri import ModelUri
from tests.models import tiny_model
from tests.simulators.memory_source import MemorySource

VLLM = Installation("vllm", "0.32.0", Device.CPU, (), {}, frozenset(), "assumed")
SGLANG = Installation("sglang", "0.5.23", Device.CPU, (), {}, frozenset(), "assumed")
LAPTOP = Inventory((), 64 * GIB, 64 * GIB, cpu_count=2)


class Hub:
    """Models in memory by location; which of them were listed."""

    def __init__(self, *names: str) -> None:
        self.listed: list[str] = []
        self.sources = {name: self._source(name) for name in names}

    def _source(self, name: str) -> MemorySource:
        source = MemorySource(model=ModelUri.parse(f"hf://demo/{name}:main"))
        for path, data in tiny_model(shards=1).items():
            source.add(path, data)
        return source

    def at(self, place: ModelUri, _report: Report) -> Source:
        return _Counted(self)


class _Counted:
    in_place = False

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def __getattr__(self, name: str):
        return getattr(next(iter(self._hub.sources.values())), name)

    def list_files(self, model: ModelUri) -> Manifest:
        name = model.location.rpartition("/")[2]
        self._hub.listed.append(name)
        if name not in self._hub.sources:
            raise ModelNotFound(f"there is no {model}", remedy="look for it")
        return self._hub.sources[name].list_files(model)


def profile(number: int, repository: str, **tags: str) -> ListedProfile:
    said = {"llm_engine": "vllm", "precision": "bf16", "tp": "1", "pp": "1", **tags}
    place = ModelUri.parse(f"hf://demo/{repository}:main")
    return ListedProfile(
        f"{number:064x}", said, tuple(ListedFile(name, place.with_file(name)) for name in tiny_model(shards=1))
    )


MANIFEST = ProfileManifest(
    "m.yaml",
    "",
    (profile(1, "a"), profile(2, "a", tp="2"), profile(3, "b", precision="fp8"), profile(4, "c", llm_engine="sglang")),
)


@pytest.fixture
def hub() -> Hub:
    return Hub("a", "b")


def look(
    hub: Hub,
    root: Path,
    *,
    what: Named = MANIFEST,
    scope: Scope | None = None,
    engines: tuple[Installation, ...] = (VLLM,),
    said: list[object] | None = None,
) -> Candidates:
    world = Surroundings(
        source_for=hub.at,
        open_cache=lambda: open_cache(root, default=root, fallback=root),
        machine=lambda: Machine(LAPTOP, engines),
        environ={},
        report=ignore,
    )
    report = ignore if said is None else said.append
    how = Consultation(Refresh.NEVER, report)
    return consider(what, Wish(), machine=world.machine(), world=world, how=how, scope=scope or Scope())


def reasons(found: Candidates) -> Mapping[str, str]:
    return {each.profile.id[-1]: each.reason for each in found.fits}


def test_what_no_engine_here_runs_is_not_looked_at(hub: Hub, tmp_path: Path) -> None:
    found = look(hub, tmp_path)
    assert hub.listed == ["a", "b"]
    assert [each.profile.id[-1] for each in found.fits] == ["1", "2", "3", "4"], "in the manifest's order"
    assert found.fits[0].verdict is Verdict.COMPATIBLE
    assert reasons(found)["4"].startswith("not looked at: no sglang is installed")


def test_a_name_leaves_the_others_alone(hub: Hub, tmp_path: Path) -> None:
    found = look(hub, tmp_path, scope=Scope((MANIFEST.profiles[2].id,)))
    assert hub.listed == ["b"]
    assert found.listing_of(found.fits[2].profile).model == MANIFEST.profiles[2].workspace


@pytest.mark.parametrize("name", ["default", "no such profile"])
def test_a_name_that_says_nothing_of_them_leaves_none_out(name: str, hub: Hub, tmp_path: Path) -> None:
    look(hub, tmp_path, scope=Scope((name,)))
    assert hub.listed == ["a", "b"]


def test_one_name_among_several_that_says_nothing_leaves_none_out(hub: Hub, tmp_path: Path) -> None:
    found = look(hub, tmp_path, scope=Scope((MANIFEST.profiles[3].id, "default")))
    assert hub.listed == ["a", "b", "c"]
    with pytest.raises(ModelNotFound):
        found.listing_of(found.fits[3].profile)


def test_everything_is_everything_and_what_fails_is_told(hub: Hub, tmp_path: Path) -> None:
    said: list[object] = []
    found = look(hub, tmp_path, scope=Scope(everything=True), said=said)
    assert hub.listed == ["a", "b", "c"]
    assert reasons(found)["4"] == "its files cannot be looked at: there is no hf://demo/c:main"
    assert found.fits[3].remedy == "look for it"
    with pytest.raises(ModelNotFound):
        found.listing_of(found.fits[3].profile)
    assert any("1 profiles of m.yaml cannot be looked at" in getattr(each, "text", "") for each in said)


def test_where_no_engine_is_all_are_looked_at(hub: Hub, tmp_path: Path) -> None:
    look(hub, tmp_path, engines=())
    assert hub.listed == ["a", "b", "c"]


def test_where_nothing_can_be_looked_at_the_first_fault_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="hf://demo/c:main"):
        look(Hub(), tmp_path, engines=(SGLANG,))


def test_profiles_that_share_a_workspace_share_its_listing(hub: Hub, tmp_path: Path) -> None:
    found = look(hub, tmp_path)
    assert found.listing_of(found.fits[0].profile) is found.listing_of(found.fits[1].profile)
    assert len(found.listings) == 2


def test_a_model_by_its_location_is_one_listing(hub: Hub, tmp_path: Path) -> None:
    model = ModelUri.parse("hf://demo/a:main")
    found = look(hub, tmp_path, what=model)
    assert found.fits and all(found.listing_of(each.profile) is found.listings[model] for each in found.fits)


def test_one_file_is_no_model(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names one file"):
        look(hub, tmp_path, what=ModelUri.parse("hf://demo/a:main?file=config.json"))
