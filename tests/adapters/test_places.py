"""Directories and repositories: what in them is an adapter, and what is handed on of it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from lading.adapters.places import Directory, folders_of
from lading.adapters.snapshot import StillMoving, discard, take
from lading.errors import ContentError, MachineError, MalformedModel, UsageError
from lading.model.manifest import FileEntry, Manifest
from lading.uri import ModelUri
from tests.adapters.adapters import adapter, write

NEVER = threading.Event()


def look(path: Path, *, may_come: bool = False):
    return Directory(path, path.name, may_come=may_come).look(NEVER)


def test_folders_with_an_adapters_files_are_adapters_and_others_are_passed_over(tmp_path):
    write(tmp_path / "a", adapter())
    write(tmp_path / "half", {"adapter_model.safetensors": b""})
    write(tmp_path / "..data", adapter())
    write(tmp_path / "x.incomplete", adapter())
    write(tmp_path / "notes", {"README.md": b""})
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    write(tmp_path / "nemo", {"model.nemo": b""})
    write(tmp_path / "x\ny", adapter())
    found = {each.name: each for each in look(tmp_path)}
    assert set(found) == {"a", "half", "link", "nemo", r"'x\ny'"}
    assert "printed" in found[r"'x\ny'"].problem
    assert "NeMo" in found["nemo"].problem
    assert [name for name, _ in found["a"].files] == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_directory_that_is_an_adapter_is_one(tmp_path):
    (found,) = look(write(tmp_path / "mine", adapter()))
    assert found.name == "mine"


def test_safetensors_come_before_pickles(tmp_path):
    (found,) = look(write(tmp_path / "a", {**adapter(), "adapter_model.bin": b"", "optimizer.pt": b""}))
    assert [name for name, _ in found.files] == ["adapter_config.json", "adapter_model.safetensors"]


def test_the_mark_changes_with_the_files(tmp_path):
    write(tmp_path / "a", adapter(seed=1))
    (before,) = look(tmp_path)
    assert look(tmp_path) == (before,)
    write(tmp_path / "a", adapter(seed=2))
    os.utime(tmp_path / "a/adapter_model.safetensors", (1, 1))
    assert look(tmp_path)[0].mark != before.mark


def test_a_directory_that_is_not_there(tmp_path):
    assert look(tmp_path / "none", may_come=True) == ()
    with pytest.raises(UsageError, match="there is no directory"):
        look(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="no directory"):
        look(tmp_path / "file")


def test_links_that_lead_nowhere_and_to_themselves_are_problems_of_their_adapter(tmp_path):
    place = write(tmp_path / "loras/a", {"adapter_config.json": adapter()["adapter_config.json"]})
    (place / "adapter_model.safetensors").symlink_to(tmp_path / "nowhere")
    (found,) = look(tmp_path / "loras")
    assert "cannot be read" in found.problem
    with pytest.raises(MalformedModel, match="cannot be read"):
        take(found, tmp_path / "room")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(MachineError, match="cannot be read"):
        look(tmp_path / "loop")


def entries(*paths: str) -> Manifest:
    uri = ModelUri.parse("hf://org/x")
    return Manifest.of(uri, None, [FileEntry(path, 1, uri.with_file(path)) for path in paths])


def test_repositories_hold_one_adapter_or_one_for_each_folder():
    one = folders_of(
        entries("adapter_config.json", "adapter_model.bin", "adapter_model.pt", "sub/adapter_config.json"), "x"
    )
    assert {name: sorted(files) for name, files in one.items()} == {"x": ["adapter_config.json", "adapter_model.bin"]}
    many = folders_of(
        entries("a/adapter_config.json", "a/b/adapter_config.json", ".git/adapter_config.json", "c/d"), "x"
    )
    assert list(many) == ["a"]
    assert folders_of(entries("model.safetensors", "added_tokens.json"), "x") == {}


def snapshot(tmp_path: Path, files: dict[str, bytes]):
    (found,) = look(write(tmp_path / "loras/a", files).parent)
    return take(found, tmp_path / "room")


def test_a_snapshot_is_a_copy_of_its_own_for_each_version(tmp_path):
    first = snapshot(tmp_path, adapter(seed=1))
    second = snapshot(tmp_path, adapter(seed=2))
    again = snapshot(tmp_path, adapter(seed=1))
    assert again == first
    assert second.directory != first.directory
    assert (first.directory / "adapter_model.safetensors").read_bytes() == adapter(seed=1)["adapter_model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "room").iterdir()) == sorted(
        each.directory.name for each in (first, second)
    )
    discard(first.directory)
    assert not first.directory.exists()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"adapter_model.safetensors": b""}, "adapter_config.json is missing"),
        ({"adapter_config.json": b"{}"}, "adapter_model.safetensors is missing"),
        ({**adapter(), "adapter_config.json": b"{"}, "not valid JSON"),
        ({**adapter(), "adapter_model.safetensors": b"12345"}, "too few"),
        ({"adapter_config.json": adapter()["adapter_config.json"], "adapter_model.bin": b"PK"}, "cut short"),
    ],
)
def test_what_is_not_whole_is_refused_and_leaves_nothing(tmp_path, files, reason):
    with pytest.raises(ContentError, match=reason):
        snapshot(tmp_path, files)
    assert not (tmp_path / "room").exists() or list((tmp_path / "room").iterdir()) == []


def test_a_whole_pickle_is_taken_without_a_look_inside(tmp_path):
    import zipfile

    path = write(tmp_path / "loras/a", {"adapter_config.json": adapter()["adapter_config.json"]}) / "adapter_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    (found,) = look(tmp_path / "loras")
    assert take(found, tmp_path / "room").tensors is None


def test_files_that_change_or_go_while_they_are_read_are_still_moving(tmp_path):
    write(tmp_path / "a", adapter(seed=1))
    (found,) = look(tmp_path)
    write(tmp_path / "a", adapter(seed=2))
    os.utime(tmp_path / "a/adapter_model.safetensors", (1, 1))
    with pytest.raises(StillMoving):
        take(found, tmp_path / "room")
    (tmp_path / "a/adapter_model.safetensors").unlink()
    with pytest.raises(StillMoving, match="is gone"):
        take(found, tmp_path / "room")
    assert list((tmp_path / "room").iterdir()) == []


def test_configs_are_told_without_the_weights(tmp_path):
    write(tmp_path / "a", adapter(8))
    write(tmp_path / "b", {"adapter_model.safetensors": b""})
    place = Directory(tmp_path, "x", may_come=False)
    assert list(place.configs()) == [adapter(8)["adapter_config.json"]]
    place.close()
