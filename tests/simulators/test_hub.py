"""The hub simulator on the wire, seen through ``http.client``: listings, files, ranges, refusals, the command."""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import pytest

from .client import ask
from .hub import HubSimulator, cdn_etag
from .hub_repository import Blob, directory_ids, git_id

WEIGHTS = bytes(range(256)) * 400
CONFIG = b'{"model_type": "tiny"}\n'
FILES = {"config.json": CONFIG, "model.safetensors": WEIGHTS}
CONFIG_PATH = "/demo/tiny/resolve/main/config.json"
WEIGHTS_PATH = "/demo/tiny/resolve/main/model.safetensors"
ODD_NAMES = [
    "a b.txt",
    "ünïcode/文.txt",
    "c+d.txt",
    "100%.txt",
    "a#b.txt",
    "what?.txt",
    "deep/er/still.txt",
    "a&b=c.txt",
]
BEARER = "Bearer {}".format


def link_to_weights(hub: HubSimulator) -> str:
    location = ask(hub.endpoint + WEIGHTS_PATH, method="HEAD").headers["Location"]
    assert location is not None
    return location


@pytest.fixture
def hub() -> Iterator[HubSimulator]:
    with HubSimulator() as simulator:
        simulator.add_model("demo/tiny", FILES)
        yield simulator


def test_ids_are_the_ones_git_gives() -> None:
    contents = {"a/hello.txt": b"hello\n", "a.txt": b"x", "a0": b"y", "a/b/c": b"z"}
    assert directory_ids({path: git_id("blob", content) for path, content in contents.items()}) == {
        "a/b": "ddb533fa79a2f0d63082691550468a4c43754a65",
        "a": "2d1ad810a3dec057440456f98e85a0bd1f366a1b",
        "": "a036bcc53fbe3d715d308fa1ac7be6eaf17897f5",
    }


@pytest.mark.parametrize(
    ("path", "size_bytes", "is_lfs"),
    [
        ("config.json", 10, False),
        ("model.safetensors", 10, True),
        ("sub/pytorch_model.bin", 10, True),
        ("q4.gguf", 10, True),
        ("tokenizer.json", 10 * 1024 * 1024, False),
        ("tokenizer.json", 10 * 1024 * 1024 + 1, True),
    ],
)
def test_weights_and_large_files_are_in_lfs(path: str, size_bytes: int, is_lfs: bool) -> None:
    assert (Blob.of(path, bytes(size_bytes)).sha256 is not None) is is_lfs


def test_a_file_on_disk_has_the_ids_of_its_bytes(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
        on_disk, in_memory = Blob.of(name, tmp_path / name), Blob.of(name, content)
        assert (on_disk.oid, on_disk.sha256) == (in_memory.oid, in_memory.sha256)


def test_committing_again_moves_the_branch_and_keeps_the_old_commit(hub: HubSimulator) -> None:
    old = hub.add_model("demo/moving", {"a.txt": b"old"})
    new = hub.add_model("demo/moving", {"a.txt": b"new"})
    again = hub.add_model("demo/moving", {"a.txt": b"new"})
    hub.tag("demo/moving", "v1", old)
    assert len({old, new, again}) == 3
    for revision, commit, text in [
        ("main", again, b"new"),
        (old, old, b"old"),
        ("v1", old, b"old"),
        (new, new, b"new"),
    ]:
        answer = ask(f"{hub.endpoint}/demo/moving/resolve/{revision}/a.txt")
        assert (answer.headers["X-Repo-Commit"], answer.body) == (commit, text)


@pytest.mark.parametrize("revision", ["refs%2Fpr%2F1", "refs/pr/1", "feature%2Fx"])
def test_revisions_may_contain_slashes(hub: HubSimulator, revision: str) -> None:
    hub.add_model("demo/tiny", {"a.txt": b"pull request"}, revision="refs/pr/1")
    hub.add_model("demo/tiny", {"a.txt": b"pull request"}, revision="feature/x")
    assert ask(f"{hub.endpoint}/demo/tiny/resolve/{revision}/a.txt").body == b"pull request"
    assert ask(f"{hub.endpoint}/api/models/demo/tiny/revision/{revision}").status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_model_info_names_the_commit_and_the_files(hub: HubSimulator, method: str) -> None:
    commit = hub.add_model("demo/tiny", FILES, gated=True)
    answer = ask(f"{hub.endpoint}/api/models/demo/tiny", method=method)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    if method == "HEAD":
        assert answer.body == b""
        return
    info = answer.json()
    assert isinstance(info, dict)
    assert (info["id"], info["sha"], info["private"], info["gated"]) == ("demo/tiny", commit, False, "auto")
    assert info["siblings"] == [{"rfilename": "config.json"}, {"rfilename": "model.safetensors"}]


def test_a_tree_is_listed_in_pages_linked_to_each_other(hub: HubSimulator) -> None:
    hub.page_size = 3
    hub.add_model("demo/many", {f"d/{number}.txt": b"" for number in range(6)})
    pages, url = [], f"{hub.endpoint}/api/models/demo/many/tree/main?recursive=true&expand=false"
    while url:
        answer = ask(url)
        pages.append(answer.json())
        url = (answer.headers["Link"] or "").partition(">")[0][1:]
    assert [len(page) for page in pages if isinstance(page, list)] == [3, 3, 1]
    paths = [entry["path"] for page in pages if isinstance(page, list) for entry in page]
    assert paths == ["d", *(f"d/{number}.txt" for number in range(6))]


def test_a_tree_can_be_asked_for_in_shorter_pages(hub: HubSimulator) -> None:
    answer = ask(f"{hub.endpoint}/api/models/demo/tiny/tree/main?limit=1")
    assert len(json.loads(answer.body)) == 1
    assert "limit=1&cursor=" in (answer.headers["Link"] or "")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", urlencode({"paths": ["model.safetensors", "no.txt"]}, doseq=True)),
        ("application/json", json.dumps({"paths": ["model.safetensors", "no.txt"], "expand": False})),
    ],
)
def test_paths_info_leaves_out_what_is_not_there(hub: HubSimulator, content_type: str, body: str) -> None:
    url = f"{hub.endpoint}/api/models/demo/tiny/paths-info/main"
    answer = ask(url, method="POST", headers={"Content-Type": content_type}, body=body)
    assert [entry["path"] for entry in json.loads(answer.body)] == ["model.safetensors"]


def test_a_small_file_is_answered_directly(hub: HubSimulator) -> None:
    head, answer = ask(hub.endpoint + CONFIG_PATH, method="HEAD"), ask(hub.endpoint + CONFIG_PATH)
    assert (head.status, head.body, answer.status, answer.body) == (200, b"", 200, CONFIG)
    for response in (head, answer):
        assert response.headers["ETag"] == f'"{git_id("blob", CONFIG)}"'
        assert response.headers["Content-Length"] == str(len(CONFIG))
        assert response.headers["X-Repo-Commit"]


def test_a_file_in_lfs_is_a_redirect_to_another_host(hub: HubSimulator) -> None:
    answer = ask(hub.endpoint + WEIGHTS_PATH, method="HEAD")
    digest = Blob.of("model.safetensors", WEIGHTS).sha256
    assert (answer.status, answer.headers["X-Linked-Size"]) == (302, str(len(WEIGHTS)))
    assert answer.headers["X-Linked-ETag"] == f'"{digest}"'
    assert urlsplit(answer.headers["Location"] or "").hostname == "localhost"
    delivered = ask(answer.headers["Location"] or "")
    assert (delivered.status, delivered.body) == (200, WEIGHTS)
    assert delivered.headers["ETag"] == f'"{cdn_etag(digest or "")}"' != f'"{digest}"'
    assert [request.host for request in hub.requests_for("model.safetensors")] == ["hub", "cdn"]


def test_when_asked_small_files_are_relative_redirects_as_on_the_real_hub() -> None:
    with HubSimulator(resolve_cache=True) as hub:
        hub.add_model("demo/tiny", FILES)
        hub.add_model("demo/closed", FILES, gated=True)
        hub.require_token("hf_good")
        answer = ask(hub.endpoint + CONFIG_PATH)
        location = answer.headers["Location"] or ""
        assert (answer.status, location.startswith("/api/resolve-cache/models/demo/tiny/")) == (307, True)
        assert ask(hub.endpoint + location).body == CONFIG
        closed = ask(
            f"{hub.endpoint}/demo/closed/resolve/main/config.json", headers={"Authorization": BEARER("hf_good")}
        )
        assert closed.status == 200


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_is_found_when_percent_encoded(hub: HubSimulator, name: str) -> None:
    hub.add_model("demo/odd", {name: name.encode(), f"{name}.bin": name.encode()})
    assert ask(f"{hub.endpoint}/demo/odd/resolve/main/{quote(name)}").body == name.encode()
    link = ask(f"{hub.endpoint}/demo/odd/resolve/main/{quote(name)}.bin").headers["Location"]
    assert ask(link or "").body == name.encode()


def test_an_empty_file_is_an_empty_file(hub: HubSimulator) -> None:
    hub.add_model("demo/empty", {"__init__.py": b""})
    answer = ask(f"{hub.endpoint}/demo/empty/resolve/main/__init__.py")
    assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, "0", b"")


def test_credentials_sent_to_the_cdn_are_refused_and_recorded(hub: HubSimulator) -> None:
    link = link_to_weights(hub)
    assert ask(link).status == 200
    assert hub.leaked_credentials == []
    assert ask(link, headers={"Authorization": BEARER("hf_secret")}).status == 400
    assert [request.headers["authorization"] for request in hub.leaked_credentials] == ["Bearer hf_secret"]


def test_an_expired_or_forged_link_is_refused(hub: HubSimulator) -> None:
    hub.link_seconds = 0
    expired = link_to_weights(hub)
    assert ask(expired).status == 403
    assert [request.status for request in hub.requests_for("model.safetensors")] == [302, 403]
    assert ask(expired.replace("Expires=", "Expires=9")).status == 403
    assert ask(f"{hub.cdn_endpoint}/repos/none").status == 403


def test_one_connection_serves_many_requests(hub: HubSimulator) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=10)
    connection.connect()
    socket_at_first = connection.sock
    for path in (CONFIG_PATH, "/demo/tiny/resolve/main/none", WEIGHTS_PATH, "/api/models/demo/none", CONFIG_PATH):
        for method in ("HEAD", "GET"):
            connection.request(method, path)
            connection.getresponse().read()
            assert connection.sock is socket_at_first
    connection.close()


@pytest.mark.parametrize("kept", ["bytes", "file"])
@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("bytes=100-", 100, None),
        ("bytes=-7", -7, None),
        ("bytes=9-999999", 9, None),
    ],
)
def test_a_range_is_answered_with_exactly_its_bytes(
    hub: HubSimulator, tmp_path: Path, kept: str, header: str, start: int, stop: int | None
) -> None:
    (tmp_path / "weights").write_bytes(WEIGHTS)
    hub.add_model("demo/tiny", {"model.safetensors": WEIGHTS if kept == "bytes" else tmp_path / "weights"})
    answer = ask(link_to_weights(hub), headers={"Range": header})
    expected = WEIGHTS[start:stop]
    first = WEIGHTS.index(expected) if start >= 0 and len(expected) > 256 else start % len(WEIGHTS)
    assert (answer.status, answer.body) == (206, expected)
    assert answer.headers["Content-Range"] == f"bytes {first}-{first + len(expected) - 1}/{len(WEIGHTS)}"


@pytest.mark.parametrize("header", ["bytes=200000-", "bytes=102400-102401", "bytes=-0"])
def test_a_range_beyond_the_end_is_not_satisfiable(hub: HubSimulator, header: str) -> None:
    answer = ask(link_to_weights(hub), headers={"Range": header})
    assert (answer.status, answer.headers["Content-Range"], answer.body) == (416, f"bytes */{len(WEIGHTS)}", b"")


@pytest.mark.parametrize("header", ["bytes=5-3", "bytes=-", "lines=1-2", "bytes=0-1,4-5"])
def test_a_range_that_is_not_understood_is_ignored(hub: HubSimulator, header: str) -> None:
    assert ask(hub.endpoint + CONFIG_PATH, headers={"Range": header}).status == 200


@pytest.mark.parametrize(
    ("name", "is_true", "status"),
    [
        ("If-Match", True, 206),
        ("If-Match", False, 412),
        ("If-Range", True, 206),
        ("If-Range", False, 200),
        ("If-None-Match", True, 304),
        ("If-None-Match", False, 206),
    ],
)
def test_preconditions_decide_the_answer(hub: HubSimulator, name: str, is_true: bool, status: int) -> None:
    link = link_to_weights(hub)
    etag = ask(link, method="HEAD").headers["ETag"] or ""
    assert ask(link, headers={"Range": "bytes=5-9", name: etag if is_true else '"other"'}).status == status


@pytest.mark.parametrize(
    ("path", "token", "status", "code", "message"),
    [
        ("/api/models/demo/none", None, 401, "RepoNotFound", "Invalid username or password."),
        ("/api/models/demo/none", "hf_stranger", 404, "RepoNotFound", "Repository not found"),
        ("/api/models/demo/private", None, 401, "RepoNotFound", "Invalid username or password."),
        ("/api/models/demo/private", "hf_stranger", 404, "RepoNotFound", "Repository not found"),
        (
            "/demo/gated/resolve/main/config.json",
            None,
            401,
            "GatedRepo",
            "You must have access to it and be authenticated",
        ),
        ("/demo/gated/resolve/main/config.json", "hf_stranger", 403, "GatedRepo", "not in the authorized list"),
        ("/api/models/demo/tiny/revision/none", None, 404, "RevisionNotFound", "Invalid rev id: none"),
        ("/api/models/demo/tiny/tree/main/none", None, 404, "EntryNotFound", 'none does not exist on "main"'),
        ("/demo/tiny/resolve/main/none", None, 404, "EntryNotFound", "Entry not found"),
        ("/api/models/demo/tiny", "hf_typo", 401, None, "Invalid credentials in Authorization header"),
        ("/api/models/demo/tiny/discussions", None, 404, None, "Sorry, we can't find the page"),
        ("/demo", None, 404, None, "Sorry, we can't find the page"),
    ],
)
def test_a_refusal_has_the_hubs_status_code_and_message(
    hub: HubSimulator, path: str, token: str | None, status: int, code: str | None, message: str
) -> None:
    hub.add_model("demo/private", FILES, private=True)
    hub.add_model("demo/gated", FILES, gated="manual")
    hub.require_token("hf_stranger", access=False)
    answer = ask(hub.endpoint + path, headers={"Authorization": BEARER(token)} if token else {})
    assert (answer.status, answer.headers["X-Error-Code"]) == (status, code)
    assert message in (answer.headers["X-Error-Message"] or "")
    assert message in answer.body.decode().replace('\\"', '"')
    assert answer.headers["X-Request-Id"]


def test_a_missing_file_still_names_the_commit(hub: HubSimulator) -> None:
    assert ask(f"{hub.endpoint}/demo/tiny/resolve/main/none", method="HEAD").headers["X-Repo-Commit"]


def test_a_token_with_access_opens_closed_models(hub: HubSimulator) -> None:
    hub.add_model("demo/closed", FILES, private=True, gated=True)
    hub.require_token("hf_member")
    headers = {"Authorization": BEARER("hf_member")}
    assert ask(f"{hub.endpoint}/demo/closed/resolve/main/config.json", headers=headers).body == CONFIG


def test_a_gated_model_shows_its_files_to_everybody_but_gives_them_to_nobody(hub: HubSimulator) -> None:
    hub.add_model("demo/gated", FILES, gated=True)
    assert ask(f"{hub.endpoint}/api/models/demo/gated/tree/main").status == 200
    assert ask(f"{hub.endpoint}/demo/gated/resolve/main/config.json").status == 401


def test_the_bare_401_of_the_real_hub_has_no_error_code() -> None:
    with HubSimulator(repo_not_found_code=False) as hub:
        answer = ask(f"{hub.endpoint}/api/models/demo/none")
        assert (answer.status, answer.headers["X-Error-Code"]) == (401, None)


def test_the_command_serves_a_directory_and_prints_only_the_endpoint(tmp_path: Path) -> None:
    for name, content in {
        "config.json": CONFIG,
        "sub/a.txt": b"a",
        ".git/HEAD": b"x",
        "model.safetensors": WEIGHTS,
    }.items():
        path = tmp_path / "demo" / "tiny" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    command = [sys.executable, "-B", "-m", "tests.simulators.hub", str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        tree = ask(f"{endpoint}/api/models/demo/tiny/tree/main?recursive=true").json()
        process.terminate()
        assert process.communicate() == ("", "")
    assert isinstance(tree, list)
    assert [entry["path"] for entry in tree] == ["config.json", "model.safetensors", "sub", "sub/a.txt"]
    assert process.returncode == 0


def test_the_command_says_when_there_is_nothing_to_serve(tmp_path: Path) -> None:
    command = [sys.executable, "-B", "-m", "tests.simulators.hub", str(tmp_path)]
    process = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (2, "")
    assert "no org/name directories" in process.stderr
