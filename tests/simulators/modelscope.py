"""A working stand-in for ModelScope, good enough for the real ``modelscope_hub`` client to download from.

``ModelScopeSimulator`` holds models and answers the site's listing, revisions and file API on 127.0.0.1. Files in LFS are
answered with a 302 to a signed, expiring URL on another host name, where credentials are refused and ranges honoured; the
others are sent by the site itself, which ignores ranges. What the site does and no document says, it does too: listings
end at ``list_limit`` entries without a word, a revision that is not there has no files, and the commit of a listing is
told by its first digits.
"""

import hmac
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path, PurePosixPath
from threading import Lock
from urllib.parse import quote, urlencode

from .hub_repository import Blob, Commit, Model
from .server import Call, FaultyServer, Reply, Request, json_reply

_SECRET = b"modelscope simulator"
_REQUEST_ID = "00000000-0000-4000-8000-000000000000"


class ModelScopeSimulator(FaultyServer):
    """The site, from construction to ``stop``. Every method may be called while clients are connected.

    ``endpoint`` is the MODELSCOPE_ENDPOINT to give to clients. ``list_limit`` is where listings are cut off,
    ``link_seconds`` the life of a link to storage; ``untold`` are fields that listings leave out. All may be changed.
    """

    def __init__(self, *, port: int = 0, list_limit: int = 3000, link_seconds: float = 3600) -> None:
        self.list_limit = list_limit
        self.link_seconds = link_seconds
        self.untold: set[str] = set()
        self._models: dict[str, Model] = {}
        self._last_changed: dict[str, dict[str, str]] = {}
        self._stored: dict[str, tuple[str, Blob]] = {}
        self._tokens: dict[str, bool] = {}
        self._lock = Lock()
        super().__init__(port=port)

    def add_model(
        self, name: str, files: Mapping[str, bytes | Path], *, revision: str = "master", private: bool = False
    ) -> str:
        """Commit exactly ``files`` to the branch ``revision`` of model ``name`` (made if new); the 40-hex commit id.

        Older commits stay readable. ``private`` holds for the whole model from now on.
        """
        with self._lock:
            model = self._models.setdefault(name, Model(name))
            model.private = private
            parent = model.find(revision)
            commit = model.commit(files, revision)
            before = self._last_changed.get(parent.id, {}) if parent else {}
            self._last_changed[commit.id] = {
                path: before[path] if parent and parent.blobs.get(path) == blob else commit.id
                for path, blob in commit.blobs.items()
            }
            return commit.id

    def tag(self, name: str, tag: str, commit: str) -> None:
        """Make ``tag`` of a model point at a commit."""
        with self._lock:
            self._models[name].refs[tag] = commit

    def require_token(self, token: str, *, access: bool = True) -> None:
        """Make ``token`` valid; ``access`` says whether it opens private models.

        Public models stay open to everybody. From the first call on, a token never named is refused with 401.
        """
        self._tokens[token] = access

    @property
    def leaked_credentials(self) -> list[Request]:
        """Requests to storage that carried a token, as header or cookie: must stay empty."""
        return [
            each for each in self.requests if each.host == "cdn" and {"authorization", "cookie"} & set(each.headers)
        ]

    def answer(self, call: Call) -> Reply:
        """The site's answer, or storage's when the request came to its host name."""
        if call.host == "cdn":
            return self._deliver(call)
        match call.segments:
            case ["api", "v1", "models", owner, name, *rest] if call.method in ("GET", "HEAD"):
                refusal, model = self._open(call, f"{owner}/{name}")
                if refusal or model is None:
                    return refusal or _said(404, 10010205001, "record not found")
                return self._answer(call, model, "/".join(rest))
        return Reply(404, {"Content-Type": "text/html"}, b"<html>404</html>")

    def _answer(self, call: Call, model: Model, what: str) -> Reply:
        query = {name: values[0] for name, values in call.parameters.items()}
        commit = model.find(query.get("Revision") or "master")
        match what:
            case "":
                return _data({"Name": model.name.partition("/")[2], "Path": model.name.partition("/")[0]})
            case "revisions":
                branches = [name for name in model.refs if not name.startswith("v")]
                tags = [name for name in model.refs if name.startswith("v")]
                kinds = {"Branches": _refs(branches), "Tags": _refs(tags)}
                return _data({"RevisionMap": kinds})
            case "repo/files" if commit is None:
                return _data({"Files": None, "IsVisual": 0, "LatestCommitter": None})
            case "repo/files" if commit:
                return self._list(commit, query.get("Root", "").strip("/"), recursive=query.get("Recursive") == "True")
            case "repo" if commit and query.get("FilePath") in commit.blobs:
                return self._file(model, query["FilePath"], commit.blobs[query["FilePath"]])
        return _said(404, 10010202101, "not found")

    def _open(self, call: Call, name: str) -> tuple[Reply | None, Model | None]:
        token = call.headers.get("authorization", "").removeprefix("Bearer ")
        if token and call.headers.get("cookie") not in (None, f"m_session_id={token}"):
            return _said(401, 401, "cookie and header differ"), None
        if token and self._tokens and token not in self._tokens:
            return _said(401, 10010103009, f"token {token} is invalid or expired"), None
        model = self._models.get(name)
        if model and model.private and not self._tokens.get(token):
            return _said(403, 403, "access denied"), None
        return None, model

    def _list(self, commit: Commit, root: str, *, recursive: bool) -> Reply:
        paths = commit.paths(root, recursive=recursive) or []
        entries = [self._entry(commit, path) for path in paths[: self.list_limit]]
        latest = {"Id": "", "ShortId": commit.id[:8], "Message": commit.title, "ParentIds": []}
        return _data({"Files": entries, "IsVisual": 0, "LatestCommitter": latest})

    def _entry(self, commit: Commit, path: str) -> dict[str, object]:
        blob = commit.blobs.get(path)
        last = self._last_changed[commit.id]
        entry: dict[str, object] = {
            "CommitMessage": commit.title,
            "CommittedDate": int(commit.created.timestamp()),
            "CommitterName": "simulator",
            "InCheck": False,
            "IsLFS": blob is not None and blob.sha256 is not None,
            "Mode": "33188" if blob else "16384",
            "Name": PurePosixPath(path).name,
            "Path": path,
            "Revision": last.get(path, commit.id),
            "Sha256": _digest(blob) if blob else "",
            "Size": blob.size_bytes if blob else 0,
            "Type": "blob" if blob else "tree",
        }
        return {name: value for name, value in entry.items() if name not in self.untold}

    def _file(self, model: Model, path: str, blob: Blob) -> Reply:
        if blob.sha256 is None:
            return Reply(200, {"Content-Type": "application/octet-stream"}, blob.content, path)
        location = f"/prod/lfs-objects/{blob.sha256[:2]}/{blob.sha256[2:4]}/{blob.sha256[4:]}"
        self._stored[location] = (path, blob)
        expires = str(int(time.time() + self.link_seconds))
        query = {"filename": PurePosixPath(path).name, "repository": model.name, "auth_key": _signed(location, expires)}
        return Reply(302, {"Location": f"{self.cdn_endpoint}{quote(location)}?{urlencode(query)}"}, b"", path)

    def _deliver(self, call: Call) -> Reply:
        """Storage: bytes to whoever holds an unexpired link, and to nobody who sends credentials along."""
        path, blob = self._stored.get(call.path, (None, None))
        if {"authorization", "cookie"} & set(call.headers):
            return Reply(400, {}, b"only one kind of credentials, please", path)
        key = call.parameters.get("auth_key", [""])[0]
        expires = key.partition("-")[0]
        if blob is None or key != _signed(call.path, expires) or time.time() >= int(expires):
            return Reply(403, {}, b"the link has expired", path)
        etag = sha256(f"storage {blob.sha256}".encode()).hexdigest()
        return Reply(200, {"X-Linked-ETag": f'"{blob.sha256}"'}, blob.content, path, etag)


def _digest(blob: Blob) -> str:
    content = blob.content if isinstance(blob.content, bytes) else blob.content.read_bytes()
    return blob.sha256 or sha256(content).hexdigest()


def _refs(names: list[str]) -> list[dict[str, object]]:
    return [{"Revision": name, "CreatedAt": 1700000000} for name in names]


def _data(data: object) -> Reply:
    body = {"Code": 200, "Data": data, "Message": "success", "RequestId": _REQUEST_ID, "Success": True}
    return json_reply(200, body)


def _said(status: int, code: int, message: str) -> Reply:
    body = {"Code": code, "Data": None, "Message": message, "RequestId": _REQUEST_ID, "Success": False}
    return json_reply(status, body)


def _signed(location: str, expires: str) -> str:
    signature = hmac.digest(_SECRET, f"{location} {expires}".encode(), "sha256")
    return f"{expires}-{urlsafe_b64encode(signature).decode().strip('=')}"
