"""NIM manifests of both schemas as values; what cannot be used is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lading.digest import Digest
from lading.errors import LadingError, UsageError
from lading.manifests.document import ManifestError
from lading.manifests.read import load_manifest, read_manifest
from lading.manifests.write import manifest_json, manifest_yaml
from lading.model.listed import ProfileManifest
from lading.model.manifest import FileEntry
from lading.profiles.profile import Profile
from lading.uri import ModelUri
from tests.manifests.documents import VLLM, file_of, profile_id, version_1, version_2

HEX = "ab" * 32


def read(text: str) -> ProfileManifest:
    return read_manifest(text.encode(), "m.yaml")


def one_file(**said: str) -> str:
    """A manifest of one profile with one file, of which ``said`` is said."""
    return version_2((1, VLLM, {"config.json": {"uri": "hf://org/model:main?file=config.json", **said}}))


def test_schema_2_lists_files_from_several_repositories_under_other_names() -> None:
    files = {
        "config.json": file_of("ngc://nim/demo/tiny:hf?file=config.json", b"{}"),
        "engine/rank0.bin": file_of("s3://bucket/prefix?file=0.bin", b"0", "sha256"),
        "LICENSE": {"uri": "local:///opt/licences?file=LICENSE.txt"},
    }
    (profile,) = read(version_2((7, VLLM, files))).profiles
    assert profile.id == profile_id(7)
    assert profile.tags == VLLM
    assert [(each.path, str(each.uri), str(each.digest)) for each in profile.files] == [
        ("config.json", "ngc://nim/demo/tiny:hf?file=config.json", str(Digest.of(b"{}", "blake3"))),
        ("engine/rank0.bin", "s3://bucket/prefix?file=0.bin", str(Digest.of(b"0"))),
        ("LICENSE", "local:///opt/licences?file=LICENSE.txt", "None"),
    ]


def test_schema_1_joins_folders_and_names() -> None:
    text = version_1(
        (
            1,
            {"llm_engine": "tensorrt_llm", "gpu": "H100", "tp": "1"},
            [
                ("", "ngc://nim/demo/tiny:hf", ["config.json"]),
                ("trtllm_engine", "ngc://nim/demo/tiny:h100", ["rank0.engine"]),
            ],
        )
    )
    (profile,) = read(text).profiles
    assert profile.model == "demo/tiny"
    assert [(each.path, str(each.uri)) for each in profile.files] == [
        ("config.json", "ngc://nim/demo/tiny:hf?file=config.json"),
        ("trtllm_engine/rank0.engine", "ngc://nim/demo/tiny:h100?file=rank0.engine"),
    ]


def test_a_repository_without_names_is_the_whole_of_it() -> None:
    whole = (
        f"{profile_id(1)}:\n  workspace:\n    components:\n    - {{dst: sub/, src: {{repo_id: 'hf://org/model'}}}}\n"
    )
    (profile,) = read(whole).profiles
    assert [(each.path, str(each.uri)) for each in profile.files] == [("sub", "hf://org/model")]
    (profile,) = read(version_2((1, VLLM, {".": {"uri": "hf://org/model:main"}}))).profiles
    assert [(each.path, str(each.uri)) for each in profile.files] == [("", "hf://org/model:main")]


DIGESTS = {
    "blake3 with its name": ({"checksum": f"blake3:{HEX}"}, f"blake3:{HEX}"),
    "sha256 with its name": ({"checksum": f"sha256:{HEX}"}, f"sha256:{HEX}"),
    "digits alone": ({"checksum": HEX.upper()}, f"blake3:{HEX}"),
    "a key of its own": ({"blake3": HEX}, f"blake3:{HEX}"),
    "both: SHA-256 is also the name of the blob": ({"blake3": "cd" * 32, "sha256": HEX}, f"sha256:{HEX}"),
    "none": ({}, "None"),
}


@pytest.mark.parametrize(("said", "digest"), DIGESTS.values(), ids=DIGESTS)
def test_digests_in_every_spelling(said: dict[str, str], digest: str) -> None:
    assert str(read(one_file(**said)).profiles[0].files[0].digest) == digest


def test_a_mapping_of_digests() -> None:
    text = one_file().replace("uri:", f"checksums: {{blake3: {HEX}}}\n        uri:")
    assert str(read(text).profiles[0].files[0].digest) == f"blake3:{HEX}"


def test_ids_and_sizes_that_look_like_numbers_stay_what_they_are() -> None:
    name = "1" * 63 + "2"
    text = one_file().replace(profile_id(1), name).replace("'1'", "1").replace(f"'{name}'", name)
    (profile,) = read(text).profiles
    assert (profile.id, profile.tags["tp"]) == (name, "1")


def test_a_list_of_gpus_is_joined() -> None:
    text = one_file().replace("llm_engine:", "gpu: [H100, H200]\n    llm_engine:")
    assert read(text).profiles[0].tags["gpu"] == "H100,H200"


def test_equal_files_are_one_workspace_whatever_else_differs() -> None:
    files = {"a": file_of("hf://org/model:main?file=a"), "b": file_of("hf://org/model:main?file=b")}
    turned = dict(reversed(files.items()))
    other = {**files, "b": file_of("hf://org/model:main?file=b", b"b")}
    found = read(version_2((1, VLLM, files), (2, {**VLLM, "tp": "2"}, turned), (3, VLLM, other))).workspaces
    assert [[each.id for each in profiles] for profiles in found.values()] == [
        [profile_id(1), profile_id(2)],
        [profile_id(3)],
    ]
    assert all(ModelUri.parse(str(each)) == each for each in found)


GOOD = one_file()
REFUSED = {
    "no mapping": ("- a\n", "line 1: a manifest should be a mapping"),
    "another schema": ("schema_version: 3.1.0\nprofiles: []\n", "line 1: schema_version 3.1.0: no manifest that Lading knows"),
    "no schema": ("a: b\n", "line 1: neither schema_version nor profile ids"),
    "no profiles": ("schema_version: 2.0.0\nprofiles: []\n", "the manifest lists no profiles"),
    "a profile without id": (GOOD.replace(f"id: '{profile_id(1)}'", "name: x"), "line 4: the profile has no id"),
    "an id that is none": (GOOD.replace(profile_id(1), "x"), "'x' is no profile id"),
    "no files": (GOOD.replace(" files:", " others:"), "lists no files (workspace.files)"),
    "an empty map of files": (version_2((1, VLLM, {})), "a profile without files"),
    "a file without uri": (GOOD.replace("uri:", "url:"), "'config.json' has no uri"),
    "a bare path": (GOOD.replace("hf://org/model:main?file=config.json", "/mnt/x"), "'/mnt/x' is a bare path"),
    "a scheme that is none": (GOOD.replace("hf://", "file://"), "the scheme 'file' is unknown"),
    "a workspace as a place": (GOOD.replace("hf://org/model:main?file=config.json", f"manifest://{HEX}"), "names no place"),
    "a path that leaves": (GOOD.replace("config.json:", "../../etc/passwd:"), "would leave the workspace"),
    "an absolute path": (GOOD.replace("config.json:", "/etc/passwd:"), "would leave the workspace"),
    "another digest": (one_file(checksum="crc32:0"), "'crc32:0' is no digest that Lading checks"),
    "short digits": (one_file(blake3="ab"), "'blake3:ab' is no digest that Lading checks"),
    "an unknown kind of digest": (GOOD.replace("uri:", "checksums: {xxh3: ab}\n        uri:"), "xxh3 is no digest that Lading checks"),
    "no number of GPUs": (GOOD.replace("tp: '1'", "tp: two"), "the tag 'tp' is 'two', no number of GPUs"),
    "an id twice": (version_2((1, VLLM, {"a": file_of("hf://o/m?file=a")}), (1, VLLM, {"b": file_of("hf://o/m?file=b")})), "two profiles have the id"),
    "a place twice": (version_1((1, VLLM, [("", "hf://o/m", ["a"]), ("", "hf://o/n", ["a"])])), "two files have the place 'a'"),
    "a component without repository": (f"{profile_id(1)}:\n  workspace:\n    components: [{{dst: x}}]\n", "line 3: the component names no repository"),
    "a repository that is a file": (version_1((1, VLLM, [("", "hf://o/m?file=x", ["a"])])), "names one file where a repository should be"),
    "a name that leaves": (version_1((1, VLLM, [("sub", "hf://o/m", ["../../x"])])), "would leave the workspace"),
    "schema 1 without files": (f"{profile_id(1)}:\n  tags: {{}}\n", "lists no files (workspace.components)"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ManifestError) as refused:
        read(text)
    assert said in refused.value.message
    assert refused.value.message.startswith("m.yaml, line ")
    assert refused.value.exit_code == 4


def test_too_many_profiles() -> None:
    profile = "{id: '%064x', workspace: {files: {a: {uri: 'hf://o/m?file=a'}}}}"
    text = "schema_version: 2.0.0\nprofiles:\n" + "".join(f"- {profile % n}\n" for n in range(10_001))
    with pytest.raises(ManifestError, match="more than 10000 profiles"):
        read(text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UsageError, match="cannot be read") as refused:
            load_manifest(path)
        assert str(path) in refused.value.message


PROFILES = [Profile("vllm", "bf16", tp, 1, tp == 2, "hf://org/model:abc") for tp in (1, 2)]
FILES = [
    FileEntry("config.json", 2, ModelUri.parse("hf://org/model:abc?file=config.json"), Digest.of(b"{}")),
    FileEntry("a b.safetensors", 9, ModelUri.parse("hf://org/model:abc").with_file("ä b.safetensors")),
]


@pytest.mark.parametrize("render", [manifest_yaml, manifest_json])
def test_what_is_written_is_read_back(render) -> None:
    text = render([(PROFILES, FILES)])
    found = read(text)
    assert [each.id for each in found.profiles] == [each.id for each in PROFILES]
    assert [dict(each.tags) for each in found.profiles] == [each.tags for each in PROFILES]
    assert [(each.path, each.uri, each.digest) for each in found.profiles[1].files] == [
        (each.path, each.uri, each.digest) for each in FILES
    ]
    assert yaml.safe_load(text)["schema_version"] == "2.0.0"
    assert "&id" not in text, "NIM's readers expect every workspace spelt out"


def test_an_error_of_a_uri_keeps_its_remedy() -> None:
    with pytest.raises(LadingError) as refused:
        read(GOOD.replace("hf://org/model", "hf://model"))
    assert refused.value.remedy
