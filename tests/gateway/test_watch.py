"""When files count as changed, and what becomes of a change that cannot be used."""

from __future__ import annotations

import pytest

from lading.errors import UsageError
from lading.events import Note
from lading.gateway.watch import Watched
from tests.gateway.certificates import SecretVolume


@pytest.fixture
def number(tmp_path):
    path = tmp_path / "number"
    path.write_text("1")
    return path


def watched(path, events):
    def read() -> int:
        try:
            return int(path.read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"{path.name}: no number") from error

    return Watched("the number", [path], read, events.append)


def test_a_change_is_taken_when_it_was_seen_twice(number):
    events = []
    value = watched(number, events)
    value.look()
    number.write_text("22")
    value.look()
    assert value.current == 1
    value.look()
    assert value.current == 22
    value.look()
    assert events == [Note("the number changed and were read again")]


def test_a_file_that_is_still_being_written_is_left_alone(number):
    value = watched(number, [])
    for text in ("2", "23", "234"):
        number.write_text(text)
        value.look()
        assert value.current == 1
    value.look()
    assert value.current == 234


@pytest.mark.parametrize(
    "spoil", [lambda path: path.write_text("many"), lambda path: path.unlink()], ids=["bad", "gone"]
)
def test_what_cannot_be_read_leaves_the_old_value_with_one_warning(number, spoil):
    events = []
    value = watched(number, events)
    spoil(number)
    for _ in range(5):
        value.look()
    assert value.current == 1
    assert [each.level for each in events] == ["WARNING"]
    assert "number: no number" in events[0].text
    number.write_text("3")
    value.look()
    value.look()
    assert value.current == 3


def test_a_file_that_goes_while_it_is_read_is_a_change_that_cannot_be_used(number):
    events = []
    value = Watched("the number", [number], lambda: int(number.read_text()), events.append)
    number.unlink()
    value.look()
    value.look()
    assert (value.current, [each.level for each in events]) == (1, ["WARNING"])


def test_a_volume_of_kubernetes_that_is_turned_is_a_change(tmp_path):
    volume = SecretVolume(tmp_path / "secret")
    volume.put({"number": b"1"})
    value = watched(volume.directory / "number", [])
    volume.put({"number": b"2"})
    value.look()
    value.look()
    assert value.current == 2


def test_a_first_reading_that_fails_reaches_the_caller(tmp_path):
    with pytest.raises(UsageError):
        watched(tmp_path / "nothing", [])
