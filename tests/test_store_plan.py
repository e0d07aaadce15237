"""What a model store needs is decided from what lies at its place: kept, continued, made, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lading.errors import NotEnoughDisk, UsageError
from lading.placing import Way
from lading.plan import MARGIN_BYTES
from lading.store_plan import Site, Step, StoreFile, plan_store
from lading.units import GIB, MIB

PLACE = Path("/volume/store")
FILES = (StoreFile("model.safetensors", 900), StoreFile("config.json", 20), StoreFile("sub/tokenizer.json", 5))


@pytest.mark.parametrize(
    ("there", "staged", "steps"),
    [
        ({}, {}, "make make make"),
        ({"config.json": 20, "model.safetensors": 900, "sub/tokenizer.json": 5}, {}, "keep keep keep"),
        ({"config.json": 20}, {}, "keep make make"),
        ({}, {"model.safetensors": 900}, "make continue make"),
        ({}, {"model.safetensors": 899, "sub/tokenizer.json": 5}, "make make continue"),
        ({"config.json": 20}, {"config.json": 20, "gone.bin": 1}, "keep make make"),
    ],
    ids=["nothing", "complete", "moved in", "staged", "staged with another size", "both and a stray"],
)
def test_each_file_has_one_step_in_the_order_of_paths(there, staged, steps):
    plan = plan_store(FILES, Site(PLACE, there=there, staged=staged))
    assert [file.path for file, _ in plan.steps] == ["config.json", "model.safetensors", "sub/tokenizer.json"]
    assert [step for _, step in plan.steps] == [Step(each) for each in steps.split()]
    assert plan.is_satisfied == (set(steps.split()) == {"keep"})
    assert sum(plan.bytes_of(step) for step in Step) == plan.total_bytes == 925


@pytest.mark.parametrize(
    ("there", "others", "named"),
    [
        ({"notes.txt": 3}, (), "notes.txt"),
        ({"config.json": 21}, (), "config.json"),
        ({"config.json": 20}, ("model.safetensors",), "model.safetensors"),
        ({f"{letter}.bin": 1 for letter in "abcdef"}, (), "a.bin, b.bin, c.bin and 3 more"),
    ],
    ids=["another file", "another size", "a link of that name", "many"],
)
def test_a_directory_that_holds_anything_else_is_refused_by_name(there, others, named):
    with pytest.raises(UsageError, match=f"{PLACE} is not empty.* it holds {named}$") as caught:
        plan_store(FILES, Site(PLACE, there=there, others=others))
    assert "empty directory" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("ways", "free", "spoken_for", "is_enough"),
    [
        ((Way.HARD_LINK, Way.COPY), 0, 0, True),
        ((Way.REFLINK, Way.COPY), 0, 5 * GIB, True),
        ((Way.COPY,), 2 * GIB + MARGIN_BYTES, 0, True),
        ((Way.COPY,), 2 * GIB + MARGIN_BYTES - 1, 0, False),
        ((Way.COPY,), 2 * GIB + MARGIN_BYTES, 1, False),
    ],
    ids=["links", "shared blocks", "just enough", "a byte short", "the download needs it"],
)
def test_only_copies_need_room(ways, free, spoken_for, is_enough):
    plan = plan_store([StoreFile("model.safetensors", 2 * GIB)], Site(PLACE, ways=ways, free_bytes=free))
    assert plan.needed_bytes == (2 * GIB + MARGIN_BYTES if ways == (Way.COPY,) else 0)
    if is_enough:
        plan.check_disk(spoken_for)
        return
    with pytest.raises(NotEnoughDisk, match="need 2.03 GiB") as caught:
        plan.check_disk(spoken_for)
    assert caught.value.exit_code == 6
    assert "free 1 B there" in str(caught.value.remedy)


def test_what_is_staged_needs_no_more_room():
    files = [StoreFile("a", 10 * MIB), StoreFile("b", 20 * MIB)]
    assert plan_store(files, Site(PLACE, staged={"a": 10 * MIB})).needed_bytes == 20 * MIB + MARGIN_BYTES


@pytest.mark.parametrize(("fills", "parent"), [(True, PLACE), (False, PLACE.parent)])
def test_files_are_gathered_beside_the_store_or_in_it_under_a_hidden_name(fills, parent):
    staging = Site(PLACE, fills_in_place=fills).staging
    assert staging.parent == parent
    assert staging.name.startswith(".lading-partial")


def test_two_stores_side_by_side_are_gathered_apart():
    names = {Site(PLACE.with_name(name)).staging.name for name in ("one", "two", "ü" * 120)}
    assert len(names) == 3
    assert all(len(name) < 64 for name in names)
