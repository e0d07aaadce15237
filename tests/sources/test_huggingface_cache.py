"""The Hugging Face cache as we read it: as the real client writes it, and broken in the ways caches break."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.digest import Digest
from lading.sources.http import Network
from lading.sources.huggingface import HuggingFaceSource
from lading.sources.huggingface_cache import HuggingFaceCache, cache_roots
from lading.uri import ModelUri
from tests.simulators.hub import HubSimulator
from tests.sources.cache_layout import lay_out
from tests.sources.servers import client_with

WEIGHTS = bytes(range(256)) * 400
INDEX = json.dumps({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}).encode()
FILES = {
    "config.json": b'{"model_type": "tiny"}',
    "__init__.py": b"",
    "model.safetensors": WEIGHTS,
    "original/deep/weights 1+2.bin": WEIGHTS[:5000],
    "ünïcode/100% #1.txt": "naïve".encode(),
}
TINY = ModelUri.parse("hf://demo/tiny")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def tree_of(root: Path) -> set[tuple[str, str]]:
    """Every directory, file and link of a cache, with what links say and files hold."""
    return {
        (path.relative_to(root).as_posix(), str(path.readlink()) if path.is_symlink() else path.read_bytes().hex())
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


class TestTheRealClient:
    @pytest.fixture
    def hub(self) -> Iterator[HubSimulator]:
        from huggingface_hub import close_session

        with HubSimulator() as simulator:
            yield simulator
        close_session()

    def download(self, hub: HubSimulator, root: Path, revision: str = "main", **options: list[str]) -> Path:
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                "demo/tiny",
                revision=revision,
                endpoint=hub.endpoint,
                token=False,
                cache_dir=root,
                allow_patterns=options.get("allow_patterns"),
            )
        )

    def test_its_cache_lists_as_the_hub_does(self, hub: HubSimulator, tmp_path: Path) -> None:
        commit = hub.add_model("demo/tiny", FILES)
        hub.tag("demo/tiny", "refs/pr/1", commit)
        for revision in ("main", "refs/pr/1"):
            self.download(hub, tmp_path, revision)
        cache = HuggingFaceCache(tmp_path)
        source = HuggingFaceSource(client_with(), hub.endpoint, caches=[cache])
        for model in (TINY, TINY.with_revision("refs/pr/1"), TINY.with_revision(commit)):
            listed = source.list_files(model)
            assert cache.list_snapshot(model) == listed
            assert cache.lack(listed) is None
        for entry in listed.files:
            copy = source.local_copy(entry)
            assert copy is not None
            assert copy.read_bytes() == FILES[entry.path]
            assert copy.parent.name == "blobs"
        offline = HuggingFaceSource(client_with(Network(offline=True)), hub.endpoint, caches=[cache])
        assert offline.list_files(TINY).files == listed.files

    def test_our_own_layout_is_the_clients(self, hub: HubSimulator, tmp_path: Path) -> None:
        commit = hub.add_model("demo/tiny", FILES)
        self.download(hub, tmp_path / "theirs")
        lay_out(tmp_path / "ours", "demo/tiny", commit, FILES)
        assert tree_of(tmp_path / "ours") <= tree_of(tmp_path / "theirs")

    def test_a_part_of_a_model_is_told_from_the_whole(self, hub: HubSimulator, tmp_path: Path) -> None:
        hub.add_model("demo/tiny", FILES)
        cache = HuggingFaceCache(tmp_path)
        self.download(hub, tmp_path, allow_patterns=["*.json"])
        part = cache.list_snapshot(TINY)
        assert part is not None
        assert cache.lack(part) == "the weights are missing"
        self.download(hub, tmp_path, allow_patterns=["*.safetensors"])
        more = cache.list_snapshot(TINY)
        assert more is not None
        assert cache.lack(more) is None

    def test_nothing_is_written(self, hub: HubSimulator, tmp_path: Path) -> None:
        hub.add_model("demo/tiny", FILES)
        self.download(hub, tmp_path)
        before = tree_of(tmp_path)
        cache = HuggingFaceCache(tmp_path)
        source = HuggingFaceSource(client_with(), hub.endpoint, caches=[cache])
        for entry in source.list_files(TINY).files:
            source.local_copy(entry)
        cache.list_snapshot(TINY)
        assert tree_of(tmp_path) == before


class TestFinding:
    def test_by_name(self, tmp_path: Path) -> None:
        snapshot = lay_out(tmp_path, "demo/tiny", COMMIT, FILES)
        found = HuggingFaceCache(tmp_path).find("demo/tiny", COMMIT, "original/deep/weights 1+2.bin")
        assert found == (snapshot / "original/deep/weights 1+2.bin").resolve()

    def test_by_digest(self, tmp_path: Path) -> None:
        lay_out(tmp_path, "demo/tiny", COMMIT, FILES)
        cache = HuggingFaceCache(tmp_path)
        by_digest = cache.find_blob("demo/tiny", Digest.of(WEIGHTS))
        assert by_digest == cache.find("demo/tiny", COMMIT, "model.safetensors")
        assert cache.find_blob("demo/tiny", Digest.of(b"other")) is None
        assert cache.find_blob("demo/other", Digest.of(WEIGHTS)) is None

    @pytest.mark.parametrize(
        ("repo", "commit", "path"),
        [
            ("demo/other", COMMIT, "config.json"),
            ("demo/tiny", COMMIT[::-1], "config.json"),
            ("demo/tiny", "main", "config.json"),
            ("demo/tiny", "..", "config.json"),
            ("demo/tiny", "", "config.json"),
            ("demo/tiny", COMMIT, "nope.json"),
            ("demo/tiny", COMMIT, "original"),
            ("demo/tiny", COMMIT, "../../refs/main"),
            ("demo/tiny", COMMIT, "/etc/passwd"),
            ("demo/tiny", COMMIT, "a\0b"),
            ("demo/tiny", COMMIT, ""),
        ],
    )
    def test_what_is_not_there(self, tmp_path: Path, repo: str, commit: str, path: str) -> None:
        lay_out(tmp_path, "demo/tiny", COMMIT, FILES)
        assert HuggingFaceCache(tmp_path).find(repo, commit, path) is None

    def test_only_inside_the_root(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("s")
        root = tmp_path / "root"
        snapshot = lay_out(root, "demo/tiny", COMMIT, FILES)
        (snapshot / "out").symlink_to(secret)
        (snapshot / "up").symlink_to("../../../../../secret")
        cache = HuggingFaceCache(root)
        assert cache.find("demo/tiny", COMMIT, "out") is None
        assert cache.find("demo/tiny", COMMIT, "up") is None
        assert cache.list_snapshot(TINY) is None

    def test_a_root_that_is_itself_a_link(self, tmp_path: Path) -> None:
        lay_out(tmp_path / "real", "demo/tiny", COMMIT, FILES)
        (tmp_path / "link").symlink_to("real")
        assert HuggingFaceCache(tmp_path / "link").find("demo/tiny", COMMIT, "config.json")

    def test_never_an_incomplete_file(self, tmp_path: Path) -> None:
        snapshot = lay_out(tmp_path, "demo/tiny", COMMIT, FILES)
        blob = (snapshot / "model.safetensors").resolve()
        half = blob.with_name(f"{blob.name}.1a2b3c4d.incomplete")
        blob.rename(half)
        (snapshot / "half.bin").symlink_to(half)
        cache = HuggingFaceCache(tmp_path)
        assert cache.find("demo/tiny", COMMIT, "half.bin") is None
        assert cache.find("demo/tiny", COMMIT, "model.safetensors") is None


class TestSnapshots:
    def test_a_copy_without_links_has_no_digests(self, tmp_path: Path) -> None:
        lay_out(tmp_path, "demo/tiny", COMMIT, FILES, links=False)
        cache = HuggingFaceCache(tmp_path)
        manifest = cache.list_snapshot(TINY)
        assert manifest is not None
        assert [(entry.path, entry.size_bytes) for entry in manifest.files] == sorted(
            (path, len(content)) for path, content in FILES.items()
        )
        assert {(entry.digest, entry.etag) for entry in manifest.files} == {(None, None)}
        assert manifest.revision == COMMIT
        assert cache.lack(manifest) is None

    @pytest.mark.parametrize("revision", ["v2", "refs/pr/7", COMMIT[::-1]])
    def test_another_revision_is_not_there(self, tmp_path: Path, revision: str) -> None:
        lay_out(tmp_path, "demo/tiny", COMMIT, FILES)
        assert HuggingFaceCache(tmp_path).list_snapshot(TINY.with_revision(revision)) is None

    @pytest.mark.parametrize("content", ["", "main", "../" * 3 + "etc", COMMIT[:-1], "\xff", COMMIT.upper()])
    def test_a_ref_that_is_no_commit_is_not_there(self, tmp_path: Path, content: str) -> None:
        lay_out(tmp_path, "demo/tiny", COMMIT, FILES)
        (tmp_path / "models--demo--tiny/refs/main").write_text(content, encoding="latin-1")
        assert HuggingFaceCache(tmp_path).list_snapshot(TINY) is None

    def test_no_cache_at_all(self, tmp_path: Path) -> None:
        assert HuggingFaceCache(tmp_path / "none").list_snapshot(TINY) is None
        (tmp_path / "models--demo--tiny/snapshots" / COMMIT).mkdir(parents=True)
        assert HuggingFaceCache(tmp_path).list_snapshot(TINY.with_revision(COMMIT)) is None

    @pytest.mark.parametrize("broken", ["missing", "loop"])
    def test_a_broken_link_makes_the_snapshot_unusable(self, tmp_path: Path, broken: str) -> None:
        snapshot = lay_out(tmp_path, "demo/tiny", COMMIT, FILES)
        (snapshot / "tokenizer.json").symlink_to("tokenizer.json" if broken == "loop" else "../../blobs/missing")
        assert HuggingFaceCache(tmp_path).list_snapshot(TINY) is None

    def test_a_name_we_could_not_use_makes_the_snapshot_unusable(self, tmp_path: Path) -> None:
        snapshot = lay_out(tmp_path, "demo/tiny", COMMIT, FILES)
        (snapshot / "a\\b").write_text("x")
        assert HuggingFaceCache(tmp_path).list_snapshot(TINY) is None

    @pytest.mark.parametrize(
        ("files", "lack"),
        [
            ({"config.json": b"{}", "model.safetensors": b"x"}, None),
            ({"config.json": b"{}", "pytorch_model.bin": b"x"}, None),
            ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}, None),
            ({"model.safetensors": b"x"}, "config.json is missing"),
            ({"config.json": b"{}", "tokenizer.json": b"{}"}, "the weights are missing"),
            ({"config.json": b"{}", "model.safetensors.index.json": INDEX}, "the weights are missing"),
            (
                {"config.json": b"{}", "model.safetensors.index.json": INDEX, "model-1-of-2.safetensors": b"x"},
                "model-2-of-2.safetensors is missing",
            ),
            (
                {
                    "config.json": b"{}",
                    "model.safetensors.index.json": INDEX,
                    "model-1-of-2.safetensors": b"x",
                    "model-2-of-2.safetensors": b"y",
                    "pytorch_model.bin.index.json": b'{"weight_map": {"a": "never fetched.bin"}}',
                },
                None,
            ),
            (
                {"config.json": b"{}", "pytorch_model.bin.index.json": INDEX, "a.bin": b"x"},
                "model-1-of-2.safetensors is missing",
            ),
            *(
                (
                    {"config.json": b"{}", "model.safetensors.index.json": content, "a.safetensors": b"x"},
                    "model.safetensors.index.json cannot be read",
                )
                for content in (b"", b"[]", b'{"weight_map": 1}', b"{}", b"[" * 100_000, b"\xff")
            ),
        ],
    )
    def test_what_a_snapshot_lacks(self, tmp_path: Path, files: dict[str, bytes], lack: str | None) -> None:
        lay_out(tmp_path, "demo/tiny", COMMIT, files)
        cache = HuggingFaceCache(tmp_path)
        manifest = cache.list_snapshot(TINY)
        assert manifest is not None
        assert cache.lack(manifest) == lack


@pytest.mark.parametrize(
    ("hub_cache", "hf_home", "home", "expected"),
    [
        ("/c", "/h", "/u", ("/c",)),
        (None, "/h", "/u", ("/h/hub", "/h")),
        (None, None, "/u", ("/u/.cache/huggingface/hub",)),
        (None, None, None, ()),
    ],
)
def test_where_the_cache_may_be(
    hub_cache: str | None, hf_home: str | None, home: str | None, expected: tuple[str, ...]
) -> None:
    paths = [Path(each) if each else None for each in (hub_cache, hf_home, home)]
    assert cache_roots(*paths) == tuple(Path(each) for each in expected)
