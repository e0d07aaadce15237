"""What is done about what was seen, as a table; and requests as they are written."""

from __future__ import annotations

import pytest

from lading.adapters.adapter import Change, Step, changes
from lading.adapters.request import AdapterSource, LoraRequest, parse_sources
from lading.adapters.room import room_for, with_room
from lading.errors import UsageError
from lading.profiles.fit import Wish
from lading.profiles.options import EngineOptions

TABLE = {
    "nothing": ({}, {}, {}, (), []),
    "one comes": ({"a": "1"}, {}, {}, (), [(Step.LOAD, "a")]),
    "one stays": ({"a": "1"}, {"a": "1"}, {}, (), []),
    "one changes": ({"a": "2"}, {"a": "1"}, {}, (), [(Step.REPLACE, "a")]),
    "one goes": ({}, {"a": "1"}, {}, (), [(Step.UNLOAD, "a")]),
    "one is being written": ({"a": "1"}, {}, {}, ("a",), []),
    "one was refused": ({"a": "1"}, {}, {"a": "1"}, (), []),
    "one was refused and changed": ({"a": "2"}, {}, {"a": "1"}, (), [(Step.LOAD, "a")]),
    "a new version was refused": ({"a": "2"}, {"a": "1"}, {"a": "2"}, (), []),
    "room is made first": (
        {"b": "2", "a": "1"}, {"c": "1", "b": "1"}, {}, (), [(Step.UNLOAD, "c"), (Step.REPLACE, "b"), (Step.LOAD, "a")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("now", "loaded", "refused", "moving", "expected"), TABLE.values(), ids=TABLE)
def test_changes(now, loaded, refused, moving, expected):
    assert changes(now, loaded, refused, moving) == tuple(Change(*each) for each in expected)


@pytest.mark.parametrize(
    ("text", "uri", "name"),
    [
        ("/loras", "/loras", "loras"),
        ("hf://org/one:main", "hf://org/one:main", "one"),
        ("mine=hf://org/one", "hf://org/one", "mine"),
        ("s3://bucket/a=b/c", "s3://bucket/a=b/c", "c"),
    ],
)
def test_a_source_is_named_by_its_end_or_by_the_user(text, uri, name):
    source = AdapterSource.parse(text)
    assert (str(source.uri), source.name) == (uri, name)


def test_a_list_of_sources_and_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = parse_sources("./loras, /b,")
    assert [str(each.uri) for each in found] == [f"{tmp_path}/loras", "/b"]
    with pytest.raises(UsageError, match="names one file"):
        parse_sources("hf://org/one?file=adapter_model.safetensors")


ASKED = LoraRequest(parse_sources("/loras"))
WATCHED = LoraRequest(parse_sources("/loras"), refresh_seconds=5)


@pytest.mark.parametrize(
    ("ranks", "asked", "expected"),
    [
        ([], ASKED, (32, 8, 16)),
        ([8], ASKED, (8, 1, 16)),
        ([8, 48], ASKED, (64, 2, 16)),
        ([8] * 20, ASKED, (8, 8, 16)),
        ([8, 4096], ASKED, (8, 2, 16)),
        ([4096], ASKED, (32, 1, 16)),
        ([8], WATCHED, (32, 8, 16)),
        ([64], WATCHED, (64, 8, 16)),
    ],
)
def test_room_follows_from_what_was_found(ranks, asked, expected):
    room = room_for(ranks, asked, Wish(), 16)
    assert (room.rank.value, room.slots.value, room.host_slots.value) == expected
    options = with_room(Wish(), room).options
    assert (options.max_lora_rank, options.max_loras) == expected[:2]


def test_flags_win_and_an_engine_that_keeps_all_is_told_nothing():
    wish = Wish(options=EngineOptions(max_loras=24, max_lora_rank=8))
    room = room_for([64], ASKED, wish, 16)
    assert room.host_slots.value == 24
    assert with_room(wish, room).options == wish.options
    assert room_for([64], ASKED, wish, None).host_slots is None
    assert room_for([8] * 9, LoraRequest(ASKED.sources, cpu_loras=4), Wish(), 16).slots.value == 4


def test_without_sources_only_what_was_asked_is_told():
    room = room_for([], LoraRequest(max_rank=20), Wish(lora=True), 16)
    assert (room.rank.value, room.slots, room.host_slots, room.is_open) == (32, None, None, False)
    assert with_room(Wish(), room).options.max_lora_rank == 32
