"""Local directories as a source: plain ones, snapshots made of links, and those that cannot be served."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.cache.root import CacheRoot, open_cache
from lading.digest import Digest
from lading.errors import (
    ContentError,
    DigestMismatch,
    FileNotFoundAtSource,
    LadingError,
    MachineError,
    MalformedModel,
    ModelNotFound,
    SizeMismatch,
    UnsafePath,
)
from lading.model.manifest import FileEntry, Manifest
from lading.sources.local import LocalSource
from lading.transfer import survey, transfer
from lading.uri import ModelUri, Scheme
from tests.sources.cache_layout import lay_out

FILES = {
    "config.json": b'{"model_type": "tiny"}',
    "__init__.py": b"",
    "model.safetensors": bytes(range(256)) * 40,
    "original/deep/weights 1+2.bin": b"w" * 5000,
    "ünïcode/100% #1?.txt": "naïve".encode(),
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for parent in (tmp_path, *tmp_path.parents):
        if parent.owner() == tmp_path.owner() and parent.stat().st_mode & 0o077 == 0:
            parent.chmod(0o711)  # pytest keeps them to this user; one test asks as another
    for path, content in FILES.items():
        place = tmp_path / "model dir" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return tmp_path / "model dir"


def listed(path: Path) -> Manifest:
    return LocalSource().list_files(ModelUri.parse(str(path)))


def entry_of(path: Path, name: str = "model.safetensors") -> FileEntry:
    entry = listed(path).find(name)
    assert entry is not None
    return entry


def read(file: FileEntry, start: int = 0, end: int | None = None, step: int = 7000) -> bytes:
    data = bytearray()
    buffer = memoryview(bytearray(step))
    with LocalSource().open_range(file, start, file.size_bytes if end is None else end) as body:
        while count := body.readinto(buffer):
            data += buffer[:count]
    return bytes(data)


def contents(manifest: Manifest) -> dict[str, bytes]:
    return {entry.path: read(entry) for entry in manifest.files}


class TestListing:
    def test_every_file_by_its_place(self, model: Path) -> None:
        manifest = listed(model)
        assert contents(manifest) == FILES
        assert (str(manifest.source), manifest.revision) == (str(model), None)
        weights = manifest.find("original/deep/weights 1+2.bin")
        assert weights is not None
        status = (model / weights.path).stat()
        assert weights.uri == ModelUri.parse(f"local://{model}").with_file(weights.path)
        assert (weights.digest, weights.etag) == (None, f"{status.st_mtime_ns}-{status.st_size}")
        assert Manifest.from_json(manifest.to_json()) == manifest

    def test_either_way_of_writing_the_place(self, model: Path) -> None:
        by_uri = LocalSource().list_files(ModelUri.parse(f"local://{str(model).replace(' ', '%20')}"))
        assert by_uri.files == listed(model).files

    def test_is_served_in_place(self) -> None:
        assert LocalSource().in_place is True

    def test_one_file_may_be_named(self, model: Path) -> None:
        uri = ModelUri.parse(f"local://{model}?file=config.json")
        manifest = LocalSource().list_files(uri)
        assert (manifest.source, [entry.path for entry in manifest.files]) == (uri, ["config.json"])
        with pytest.raises(FileNotFoundAtSource, match=r"has no file 'confg\.json'") as caught:
            LocalSource().list_files(ModelUri.parse(f"local://{model}?file=confg.json"))
        assert caught.value.remedy == "did you mean config.json?"

    def test_hidden_files_are_no_part_of_a_model(self, model: Path) -> None:
        for path in (".git/config", ".cache/huggingface/x.metadata", ".hidden", "original/.DS_Store", "lost+found/1"):
            (model / path).parent.mkdir(parents=True, exist_ok=True)
            (model / path).write_text("x")
        assert contents(listed(model)) == FILES

    def test_what_is_no_file_is_left_out(self, model: Path) -> None:
        os.mkfifo(model / "pipe")
        (model / "empty").mkdir()
        assert contents(listed(model)) == FILES

    def test_a_snapshot_of_a_hub_cache_is_a_directory_like_any_other(self, tmp_path: Path) -> None:
        snapshot = lay_out(tmp_path, "demo/tiny", COMMIT, FILES)
        manifest = listed(snapshot)
        assert contents(manifest) == FILES
        copies = {entry.path: LocalSource().local_copy(entry) for entry in manifest.files}
        assert {copy and copy.parent.name for copy in copies.values()} == {"blobs"}

    def test_a_directory_that_is_a_link(self, model: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(model)
        (model / "more").symlink_to("original/deep")
        found = contents(listed(tmp_path / "link"))
        assert found == FILES | {"more/weights 1+2.bin": FILES["original/deep/weights 1+2.bin"]}

    @pytest.mark.parametrize("target", [".", "..", "../original"])
    def test_links_back_to_where_we_came_from_are_not_followed(self, model: Path, target: str) -> None:
        (model / "original" / "again").symlink_to(target)
        found = set(contents(listed(model)))
        assert found == set(FILES)

    @given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40), max_size=4, unique=True))
    def test_any_name_is_listed_left_out_or_refused(self, names: list[str]) -> None:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as root:
            kept = set()
            for name in ["config.json", *names]:
                if "/" in name or "\0" in name or name in (".", "..") or len(name.encode()) > 255:
                    continue
                Path(root, name).write_bytes(b"x")
                kept |= {name} if not name.startswith(".") and name != "lost+found" else set()
            try:
                assert {entry.path for entry in listed(Path(root)).files} == kept
            except UnsafePath:
                assert any(ord(char) < 32 or ord(char) == 127 or char == "\\" for name in kept for char in name)


class TestRefusals:
    def refused(self, path: Path, error: type[LadingError]) -> LadingError:
        with pytest.raises(error) as caught:
            listed(path)
        assert type(caught.value) is error
        return caught.value

    def test_no_directory(self, tmp_path: Path) -> None:
        error = self.refused(tmp_path / "none", ModelNotFound)
        assert error.message == f"there is no directory {tmp_path}/none"
        assert "its volume is mounted" in (error.remedy or "")

    def test_a_file(self, model: Path) -> None:
        error = self.refused(model / "config.json", ModelNotFound)
        assert error.message == f"{model}/config.json is no directory"
        assert error.remedy == f"name the model's directory: {model}"

    def test_below_a_file(self, model: Path) -> None:
        error = self.refused(model / "config.json" / "x", MachineError)
        assert error.message == f"{model}/config.json/x cannot be read: Not a directory"

    def test_nothing_in_it(self, tmp_path: Path) -> None:
        (tmp_path / ".hidden").write_text("x")
        assert self.refused(tmp_path, ModelNotFound).message == f"{tmp_path} is empty"

    @pytest.mark.parametrize("name", ["tokenizer.json", "a directory/of links"])
    def test_a_link_that_leads_nowhere(self, model: Path, name: str) -> None:
        link = model / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to("../../blobs/0123")
        error = self.refused(model, MalformedModel)
        assert error.message == f"{link} is a link to ../../blobs/0123, which leads nowhere"
        assert "cp -rL" in (error.remedy or "")

    def test_a_link_to_itself(self, model: Path) -> None:
        (model / "self").symlink_to("self")
        assert "self is a link to self, which leads nowhere" in self.refused(model, MalformedModel).message

    def test_a_root_that_is_a_link_to_itself(self, tmp_path: Path) -> None:
        (tmp_path / "self").symlink_to("self")
        assert "cannot be read" in self.refused(tmp_path / "self", MachineError).message

    def test_a_name_that_cannot_be_used(self, model: Path) -> None:
        (model / "a\\b").write_text("x")
        self.refused(model, UnsafePath)
        (model / "a\\b").unlink()
        Path(os.fsdecode(os.fsencode(model) + b"/\xff")).write_text("x")
        self.refused(model, UnsafePath)

    def test_directories_without_end(self, tmp_path: Path) -> None:
        (tmp_path / "/".join("d" * 80)).mkdir(parents=True)
        assert "nested too deep" in self.refused(tmp_path, MalformedModel).message

    @pytest.mark.parametrize("secret", ["", "original", "config.json"])
    def test_what_this_user_may_not_read(self, model: Path, secret: str) -> None:
        (model / secret).chmod(0)
        try:
            done = list_as_nobody(model)
        finally:
            (model / secret).chmod(0o755)
        assert done.returncode == 6, done.stderr
        assert f"{model / secret} may not be read by user" in done.stdout
        assert "remedy: make it readable (chmod -R a+rX), or run as user" in done.stdout


def list_as_nobody(model: Path) -> subprocess.CompletedProcess[str]:
    """List a model in a process of another user where we are root, who may read everything."""
    program = (
        "import os, sys\n"
        "from lading.errors import LadingError\n"
        "from lading.sources.local import LocalSource\n"
        "from lading.uri import ModelUri\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try: LocalSource().list_files(ModelUri.parse(sys.argv[1]))\n"
        "except LadingError as error: print(error, 'remedy:', error.remedy); sys.exit(error.exit_code)\n"
    )
    return subprocess.run([sys.executable, "-B", "-c", program, str(model)], capture_output=True, text=True, timeout=60)


class TestRanges:
    @pytest.mark.parametrize(("start", "end"), [(0, 10_240), (0, 0), (1, 2), (300, 9000), (10_239, 10_240)])
    def test_the_bytes_asked_for(self, model: Path, start: int, end: int) -> None:
        assert read(entry_of(model), start, end) == FILES["model.safetensors"][start:end]

    @pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 4), (0, 10_241)])
    def test_bytes_that_are_none_are_a_defect_of_the_caller(self, model: Path, start: int, end: int) -> None:
        with pytest.raises(ValueError, match="no bytes"):
            read(entry_of(model), start, end)

    def test_a_file_that_grew(self, model: Path) -> None:
        entry = entry_of(model)
        with (model / "model.safetensors").open("ab") as data:
            data.write(b"x")
        with pytest.raises(SizeMismatch, match="has 10241 bytes, 10240 were listed"):
            read(entry)

    def test_a_file_that_was_replaced_by_another_of_its_size(self, model: Path) -> None:
        entry = entry_of(model)
        (model / "model.safetensors").write_bytes(b"y" * 10_240)
        os.utime(model / "model.safetensors", ns=(1, 1))
        with pytest.raises(ContentError, match="changed after it was listed"):
            read(entry)

    def test_a_file_that_becomes_shorter_while_it_is_read(self, model: Path) -> None:
        buffer = memoryview(bytearray(5000))
        with LocalSource().open_range(entry_of(model), 0, 10_240) as body:
            assert body.readinto(buffer) == 5000
            assert body.readinto(buffer[:0]) == 0
            os.truncate(model / "model.safetensors", 5000)
            with pytest.raises(SizeMismatch, match="became shorter"):
                body.readinto(buffer)

    def test_a_file_that_went_away(self, model: Path) -> None:
        entry = entry_of(model)
        (model / "model.safetensors").unlink()
        with pytest.raises(FileNotFoundAtSource, match=r"model\.safetensors is gone"):
            read(entry)
        assert LocalSource().local_copy(entry) is None

    def test_the_local_copy_is_the_file_itself(self, model: Path) -> None:
        assert LocalSource().local_copy(entry_of(model)) == (model / "model.safetensors").resolve()


class TestInManifests:
    """``local://`` as manifests write it: files of a directory that a transfer brings into the store."""

    def manifest(self, model: Path) -> Manifest:
        uri = ModelUri.parse("ngc://acme/team/mixed:1")
        files = [
            FileEntry(f"renamed/{path}", len(data), ModelUri(Scheme.LOCAL, str(model), file=path), Digest.of(data))
            for path, data in FILES.items()
        ]
        return Manifest.of(uri, "1", files)

    def fetched(self, manifest: Manifest, cache: CacheRoot) -> dict[str, bytes]:
        source = LocalSource()
        done = transfer(survey(manifest, source, cache), source, cache, cancelled=threading.Event())
        return {file.path: cache.store.path_of(file.digest).read_bytes() for file in done.files if file.digest}

    def test_their_files_are_verified_and_kept(self, model: Path, tmp_path: Path) -> None:
        cache = open_cache(tmp_path / "cache", default=tmp_path, fallback=tmp_path)
        manifest = self.manifest(model)
        assert Manifest.from_json(manifest.to_json()) == manifest
        assert str(manifest.files[0].uri).startswith("local:///")
        assert self.fetched(manifest, cache) == {f"renamed/{path}": data for path, data in FILES.items()}

    def test_bytes_that_are_not_the_manifests_are_refused(self, model: Path, tmp_path: Path) -> None:
        cache = open_cache(tmp_path / "cache", default=tmp_path, fallback=tmp_path)
        manifest = self.manifest(model)
        (model / "model.safetensors").write_bytes(FILES["model.safetensors"][:-1] + b"?")
        with pytest.raises(DigestMismatch, match="model.safetensors"):
            self.fetched(manifest, cache)
