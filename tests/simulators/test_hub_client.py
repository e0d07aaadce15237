"""The real ``huggingface_hub`` client against the simulator: what keeps the stand-in honest."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from .faults import CutAfter, Status
from .hub import HubSimulator
from .hub_repository import Blob

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (it is in the dev lock)")

from huggingface_hub import HfApi, close_session, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder

MIB = 1024 * 1024
WEIGHTS = bytes(range(256)) * 400
FILES = {
    "config.json": b"{}",
    "__init__.py": b"",
    "model.safetensors": WEIGHTS,
    "original/weights 1+2.bin": WEIGHTS[:5000],
    "ünïcode/100% #1.txt": "naïve".encode(),
}


@pytest.fixture(params=[False, True], ids=["direct", "resolve-cache"])
def hub(request: pytest.FixtureRequest) -> Iterator[HubSimulator]:
    with HubSimulator(resolve_cache=request.param) as simulator:
        simulator.add_model("demo/tiny", FILES)
        yield simulator
    close_session()


@pytest.fixture
def api(hub: HubSimulator) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=False)


def test_a_snapshot_holds_every_file_byte_for_byte(hub: HubSimulator, api: HfApi, tmp_path: Path) -> None:
    snapshot = Path(snapshot_download("demo/tiny", endpoint=hub.endpoint, token=False, cache_dir=tmp_path))
    found = {path.relative_to(snapshot).as_posix(): path.read_bytes() for path in snapshot.rglob("*") if path.is_file()}
    assert found == FILES
    assert snapshot.name == api.model_info("demo/tiny").sha
    check = api.verify_repo_checksums("demo/tiny", cache_dir=tmp_path)
    assert (check.checked_count, check.mismatches, check.missing_paths) == (len(FILES), [], [])


def test_the_cache_names_blobs_by_the_etags_we_send(hub: HubSimulator, tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        link = hf_hub_download("demo/tiny", name, endpoint=hub.endpoint, token=False, cache_dir=tmp_path)
        blob = Blob.of(name, FILES[name])
        assert Path(link).resolve().name == (blob.sha256 or blob.oid)


def test_model_info_has_the_facts_of_the_model(hub: HubSimulator, api: HfApi) -> None:
    commit = hub.add_model("demo/info", {"model.safetensors": WEIGHTS}, gated="manual")
    info = api.model_info("demo/info", files_metadata=True)
    assert (info.id, info.sha, info.private, info.gated) == ("demo/info", commit, False, "manual")
    assert info.siblings is not None
    sibling = info.siblings[0]
    assert (sibling.rfilename, sibling.size) == ("model.safetensors", len(WEIGHTS))
    assert sibling.lfs is not None
    assert sibling.lfs["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()


def test_a_tree_is_listed_one_level_or_whole(api: HfApi) -> None:
    shallow = {entry.path: type(entry) for entry in api.list_repo_tree("demo/tiny")}
    assert shallow["original"] is RepoFolder
    assert shallow["config.json"] is RepoFile
    assert not any("/" in path for path in shallow)
    below = [entry.path for entry in api.list_repo_tree("demo/tiny", "original")]
    assert below == ["original/weights 1+2.bin"]
    assert sorted(api.list_repo_files("demo/tiny")) == sorted(FILES)


@pytest.mark.parametrize("expand", [False, True])
def test_every_page_of_a_long_tree_is_fetched(hub: HubSimulator, api: HfApi, expand: bool) -> None:
    names = {f"{number:03}.txt": b"" for number in range(120)}
    hub.add_model("demo/many", names)
    hub.page_size = 50
    entries = list(api.list_repo_tree("demo/many", recursive=True, expand=expand))
    assert [entry.path for entry in entries] == sorted(names)
    assert all((entry.last_commit is not None) is expand for entry in entries)
    assert len([request for request in hub.requests if "/tree/" in request.path]) == 3


def test_paths_info_describes_files_and_folders(api: HfApi) -> None:
    file, folder = api.get_paths_info("demo/tiny", ["model.safetensors", "original", "none"], expand=True)
    assert isinstance(file, RepoFile)
    assert file.lfs is not None
    assert file.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert isinstance(folder, RepoFolder)


def test_branches_tags_and_commits_are_revisions(hub: HubSimulator, tmp_path: Path) -> None:
    old = hub.add_model("demo/moving", {"a.txt": b"old"})
    hub.add_model("demo/moving", {"a.txt": b"new"})
    hub.add_model("demo/moving", {"a.txt": b"pull request"}, revision="refs/pr/1")
    hub.tag("demo/moving", "v1", old)
    expected = {"main": b"new", old: b"old", "v1": b"old", "refs/pr/1": b"pull request"}
    for revision, text in expected.items():
        path = hf_hub_download(
            "demo/moving", "a.txt", revision=revision, endpoint=hub.endpoint, token=False, cache_dir=tmp_path
        )
        assert Path(path).read_bytes() == text


@pytest.mark.parametrize(
    ("repository", "revision", "token", "error", "status"),
    [
        pytest.param("demo/none", "main", False, RepositoryNotFoundError, 401, id="no such model, anonymous"),
        pytest.param(
            "demo/none", "main", "hf_stranger", RepositoryNotFoundError, 404, id="no such model, with a token"
        ),
        pytest.param("demo/private", "main", False, RepositoryNotFoundError, 401, id="private, anonymous"),
        pytest.param("demo/private", "main", "hf_stranger", RepositoryNotFoundError, 404, id="private, without access"),
        pytest.param("demo/gated", "main", False, GatedRepoError, 401, id="gated, anonymous"),
        pytest.param("demo/gated", "main", "hf_stranger", GatedRepoError, 403, id="gated, without access"),
        pytest.param("demo/tiny", "none", False, RevisionNotFoundError, 404, id="no such revision"),
        pytest.param("demo/tiny", "main", False, RemoteEntryNotFoundError, 404, id="no such file"),
        pytest.param("demo/tiny", "main", "hf_typo", HfHubHTTPError, 401, id="unknown token"),
    ],
)
def test_refusals_become_the_clients_own_errors(
    hub: HubSimulator,
    tmp_path: Path,
    repository: str,
    revision: str,
    token: str | bool,
    error: type[HfHubHTTPError],
    status: int,
) -> None:
    hub.add_model("demo/private", FILES, private=True)
    hub.add_model("demo/gated", FILES, gated=True)
    hub.require_token("hf_stranger", access=False)
    with pytest.raises(error) as raised:
        hf_hub_download(
            repository, "none.json", revision=revision, endpoint=hub.endpoint, token=token, cache_dir=tmp_path
        )
    assert type(raised.value) is error
    assert raised.value.response.status_code == status
    assert raised.value.request_id


def test_too_many_requests_become_an_http_error(hub: HubSimulator, api: HfApi) -> None:
    hub.fault(None, Status(429, retry_after=30))
    with pytest.raises(HfHubHTTPError, match="Retry after 30 seconds") as raised:
        api.model_info("demo/tiny")
    assert raised.value.response.status_code == 429


def test_the_token_opens_a_private_model_and_never_reaches_the_cdn(hub: HubSimulator, tmp_path: Path) -> None:
    hub.add_model("demo/closed", FILES, private=True, gated=True)
    hub.require_token("hf_member")
    snapshot_download("demo/closed", endpoint=hub.endpoint, token="hf_member", cache_dir=tmp_path)
    hosts = {request.host for request in hub.requests}
    assert hosts == {"hub", "cdn"}
    assert all("authorization" in request.headers for request in hub.requests if request.host == "hub")
    assert hub.leaked_credentials == []


@pytest.mark.parametrize("hub", [False], ids=["direct"], indirect=True)
def test_a_cut_download_resumes_at_the_last_whole_chunk_of_the_client(hub: HubSimulator, tmp_path: Path) -> None:
    weights = bytes(11 * MIB)
    hub.add_model("demo/large", {"model.safetensors": weights})
    hub.fault("model.safetensors", CutAfter(10 * MIB + 5))
    path = hf_hub_download("demo/large", "model.safetensors", endpoint=hub.endpoint, token=False, cache_dir=tmp_path)
    assert Path(path).read_bytes() == weights
    assert [request.start for request in hub.requests_for("model.safetensors")] == [None, None, 10 * MIB]
