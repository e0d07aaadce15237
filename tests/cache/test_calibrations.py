from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from lading.cache.calibrations import Calibrations
from lading.cache.root import open_cache
from lading.cache.upkeep import collect, contents
from lading.errors import MachineError
from lading.profiles.calibration import Calibration, CalibrationKey
from lading.profiles.measurement import Measurement
from tests.cache.places import as_nobody, shared_directory

KEY = CalibrationKey("vllm", "0.32.0", "cpu", "LlamaForCausalLM", "bf16", 7_000_000, eager=True)
FOUND = Calibration(
    KEY, (Measurement(kv_pool_bytes=1 << 28, kv_pool_tokens=131_072),), (Measurement(1),), 1_700_000_000
)


@pytest.fixture
def calibrations(tmp_path: Path) -> Calibrations:
    return Calibrations(tmp_path / "calibrations")


def test_what_is_kept_is_found_by_its_key_and_by_no_other(calibrations: Calibrations) -> None:
    path = calibrations.save(FOUND)
    assert calibrations.find(KEY) == FOUND
    assert calibrations.find(replace(KEY, version="0.32.1")) is None
    assert path == calibrations.path_of(KEY)
    assert [each.name for each in path.parent.iterdir()] == [f"{KEY.digest}.json"]


def test_the_last_start_counts(calibrations: Calibrations) -> None:
    calibrations.save(FOUND)
    later = replace(FOUND, measured=(Measurement(2),), measured_at=1_800_000_000)
    calibrations.save(later)
    assert calibrations.find(KEY) == later


GOOD = {"schema": 1, **FOUND.to_json()}
DAMAGED = {
    "nothing": b"",
    "no JSON": b"{",
    "no object": b"[1]",
    "bytes": b"\xff\xfe",
    "deep": b"[" * 100_000,
    "another schema": json.dumps({**GOOD, "schema": 2}).encode(),
    "no schema": json.dumps(FOUND.to_json()).encode(),
    "another key": json.dumps({**GOOD, "key": replace(KEY, tp=2).to_json()}).encode(),
    "a key of less": json.dumps({**GOOD, "key": {"engine": "vllm"}}).encode(),
    "no measurement": json.dumps({**GOOD, "measured": []}).encode(),
    "negative": json.dumps({**GOOD, "measured": [{**Measurement().to_json(), "weights_bytes": -1}]}).encode(),
    "no time": json.dumps({**GOOD, "measured_at": float("inf")}).encode(),
    "too large": json.dumps(GOOD).encode() + b" " * (1 << 20),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_or_foreign_file_is_as_good_as_none_and_is_replaced(calibrations: Calibrations, name: str) -> None:
    path = calibrations.path_of(KEY)
    path.parent.mkdir()
    path.write_bytes(DAMAGED[name])
    assert calibrations.find(KEY) is None
    calibrations.save(FOUND)
    assert calibrations.find(KEY) == FOUND


def test_a_directory_in_its_place_is_as_good_as_none(calibrations: Calibrations) -> None:
    calibrations.path_of(KEY).mkdir(parents=True)
    assert calibrations.find(KEY) is None
    with pytest.raises(MachineError):
        calibrations.save(FOUND)
    assert [path.name for path in calibrations.directory.iterdir()] == [f"{KEY.digest}.json"]


def test_a_cache_that_cannot_be_written_is_read() -> None:
    with shared_directory() as place:
        cache = open_cache(place, default=place, fallback=place)
        cache.calibrations.save(FOUND)
        with as_nobody():
            cache = open_cache(place, default=place, fallback=place)
            assert not cache.is_writable
            assert cache.calibrations.find(KEY) == FOUND


def test_a_clean_up_leaves_calibrations_and_takes_what_a_crash_left_beside_them(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, default=tmp_path, fallback=tmp_path)
    path = cache.calibrations.save(FOUND)
    litter = path.with_name(".tmp-1-ab")
    litter.write_bytes(b"{")
    for each in (path, litter):
        os.utime(each, (0, 0))
    before = path.read_bytes()
    done = collect(cache, unused_seconds=0.0, now=litter.stat().st_ctime + 366 * 86400)
    assert (done.models, done.blobs) == ([], 0)
    assert path.read_bytes() == before
    assert not litter.exists()
    assert contents(cache).holdings == ()
