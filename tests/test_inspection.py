"""Looking inside a model by range: what is read, how little, and what is said when the files do not make up a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lading.errors import DigestMismatch, MalformedModel, OfflineError, SourceUnreachable
from lading.inspection import ModelReader, inspect
from lading.model.facts import ModelFacts
from lading.sources.interface import PassingFault
from tests.models import safetensors, tiny_model
from tests.simulators.memory_source import Fault, MemorySource


def source_of(files: dict[str, bytes]) -> MemorySource:
    source = MemorySource()
    for name, data in files.items():
        source.add(name, data)
    return source


def look(source: MemorySource, find: dict[str, Path] | None = None) -> ModelFacts:
    reader = ModelReader(source, lambda entry: (find or {}).get(entry.path), sleep=lambda seconds: None)
    return inspect(source.manifest.files, reader)


def test_a_sharded_model_is_understood_from_headers_alone():
    source = source_of(tiny_model(elements=500_000))
    facts = look(source)
    assert facts.weights_bytes == 2 * 500_000 * 2
    assert facts.architecture == "LlamaForCausalLM"
    assert sum(request.end - request.start for request in source.requests) < 200_000


def test_a_header_longer_than_the_first_read_is_read_on():
    many = {f"a.rather.long.tensor.name.{number:05}": ("BF16", [1]) for number in range(2000)}
    facts = look(source_of({"config.json": tiny_model()["config.json"], "model.safetensors": safetensors(many)}))
    assert facts.parameters == 2000


def test_without_an_index_the_shards_at_the_top_count():
    files = {"config.json": tiny_model()["config.json"], "a.safetensors": safetensors({"x": ("BF16", [4])})}
    nested = {"original/b.safetensors": safetensors({"y": ("BF16", [400])})}
    assert look(source_of(files | nested)).weights_bytes == 8


def test_pickled_weights_count_by_their_files():
    files = {"config.json": tiny_model()["config.json"], "pytorch_model.bin": b"x" * 1000}
    assert look(source_of(files)).weights_bytes == 1000


def test_what_lies_on_this_machine_is_read_there(tmp_path):
    files = tiny_model()
    places = {name: tmp_path / name for name in files}
    for name, path in places.items():
        path.write_bytes(files[name])
    source = source_of(files)
    look(source, places)
    assert source.requests == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config.json": None}, "no config.json"),
        ({"config.json": b"{"}, "config.json is not valid JSON"),
        ({"model-00001-of-00002.safetensors": None}, "names model-00001-of-00002.safetensors"),
        ({"model-00001-of-00002.safetensors": b"1234"}, "too few"),
        ({"model.safetensors.index.json": b"{}"}, "weight_map"),
        ({name: None for name in tiny_model() if "safetensors" in name}, "no weights"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_does_not_make_up_a_model_is_said(change, words):
    files = {name: data for name, data in {**tiny_model(), **change}.items() if data is not None}
    with pytest.raises(MalformedModel, match=words):
        look(source_of(files))


def test_many_missing_shards_are_counted_not_listed():
    files = tiny_model(shards=9)
    left = {name: data for name, data in files.items() if not name.startswith("model-0000")}
    with pytest.raises(MalformedModel, match="and 6 more"):
        look(source_of(left))


def test_passing_faults_are_tried_again():
    source = source_of(tiny_model())
    source.fail("config.json", Fault(times=3, refuse=PassingFault("reset")))
    assert look(source).layers == 2


def test_a_fault_that_stays_names_the_file():
    source = source_of(tiny_model())
    source.fail("config.json", Fault(times=1000, refuse=PassingFault("reset")))
    with pytest.raises(SourceUnreachable, match=r"config\.json.*reset"):
        look(source)


def test_bytes_that_are_not_the_promised_ones_are_refused():
    source = source_of(tiny_model())
    source.fail("config.json", Fault(times=1000, invert=3))
    with pytest.raises(DigestMismatch, match=r"config\.json"):
        look(source)


def test_a_description_that_is_too_large_is_not_read():
    source = source_of(tiny_model())
    source.add("config.json", json.dumps({"model_type": "llama"}).encode(), listed_bytes=1 << 40)
    with pytest.raises(MalformedModel, match="too many"):
        look(source)


@pytest.mark.parametrize("damaged", ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"])
def test_a_damaged_copy_on_this_machine_is_passed_over(tmp_path, damaged):
    files = tiny_model()
    places = {name: tmp_path / name for name in files}
    for name, path in places.items():
        path.write_bytes(b"\0" * len(files[name]) if name == damaged else files[name])
    source = source_of(files)
    assert look(source, places) == look(source_of(files))
    assert {request.path for request in source.requests} == {damaged}


def test_where_the_source_cannot_be_asked_the_damage_is_the_news(tmp_path):
    files = tiny_model()
    path = tmp_path / "config.json"
    path.write_bytes(b"\0" * len(files["config.json"]))
    source = source_of(files)
    source.fail("config.json", Fault(refuse=OfflineError("no network")))
    with pytest.raises(DigestMismatch):
        look(source, {"config.json": path})
