"""A working stand-in for the Hugging Face hub, good enough for the real ``huggingface_hub`` client to download from.

``HubSimulator`` holds models and answers the hub's model API, ``/resolve/`` and its CDN on 127.0.0.1. Files in LFS are
answered with a 302 to a signed, expiring URL on another host name, where credentials are refused. By hand,
``python -m tests.simulators.hub DIR`` serves each ``DIR/org/name/`` and prints the HF_ENDPOINT to use.

What huggingface.co does today and the simulator does only when asked: ``resolve_cache=True`` answers small files with a
307 to a relative URL; ``repo_not_found_code=False`` leaves X-Error-Code out of the 401 for an unknown repository (the
official client then goes by the ``https://`` of the URL, which a simulator on plain HTTP does not have).
"""

import argparse
import hmac
import json
import signal
import sys
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from enum import Enum
from hashlib import sha256
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Literal, Never
from urllib.parse import parse_qs, quote, urlencode

from .hub_repository import Blob, Commit, Gated, Model, files_below, siblings
from .server import Call, FaultyServer, Reply, Request, json_reply

_API_VERBS = {"revision", "tree", "paths-info"}
_EXPANDED_PAGE_SIZE = 50
_SECRET = b"hub simulator"
_LOGIN = "Invalid username or password."


class _Visitor(Enum):
    """Who sends a request: nobody, a token never heard of, a token without access to closed models, one with it."""

    ANONYMOUS = "anonymous"
    UNKNOWN = "unknown"
    STRANGER = "stranger"
    MEMBER = "member"


class _RefusedError(Exception):
    """The hub says no: a status, its X-Error-Code (None: it sends none), a sentence, the commit if it got that far."""

    def __init__(self, status: int, code: str | None, message: str, *, commit: Commit | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.commit = status, code, message, commit

    def reply(self, *, as_json: bool) -> Reply:
        """The refusal with the hub's headers; the API sends JSON, ``/resolve/`` plain text."""
        headers = {"X-Error-Message": self.message.encode("ascii", "replace").decode()}
        if self.code is not None:
            headers["X-Error-Code"] = self.code
        if self.commit is not None:
            headers["X-Repo-Commit"] = self.commit.id
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="Authentication required", charset="UTF-8"'
        if as_json:
            return json_reply(self.status, {"error": self.message}, headers)
        return Reply(self.status, {"Content-Type": "text/plain; charset=utf-8", **headers}, self.message.encode())


def _no_page() -> _RefusedError:
    return _RefusedError(404, None, "Sorry, we can't find the page you are looking for.")


class HubSimulator(FaultyServer):
    """The hub, from construction to ``stop``. Every method may be called while clients are connected.

    ``endpoint`` is the HF_ENDPOINT to give to clients. ``page_size`` is the longest tree page and ``link_seconds`` the
    life of a CDN link; both may be changed at any time.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        page_size: int = 1000,
        link_seconds: float = 3600,
        resolve_cache: bool = False,
        repo_not_found_code: bool = True,
    ) -> None:
        self.page_size = page_size
        self.link_seconds = link_seconds
        self._resolve_cache = resolve_cache
        self._repo_not_found_code = repo_not_found_code
        self._models: dict[str, Model] = {}
        self._links: dict[str, tuple[str, Blob]] = {}
        self._tokens: dict[str, bool] = {}
        self._lock = Lock()
        super().__init__(port=port)

    def add_model(
        self,
        name: str,
        files: Mapping[str, bytes | Path | Blob],
        *,
        revision: str = "main",
        gated: Gated | Literal[True] = False,
        private: bool = False,
    ) -> str:
        """Commit exactly ``files`` to the branch ``revision`` of model ``name`` (made if new); the 40-hex commit id.

        Older commits stay readable. ``gated`` (True is "auto") and ``private`` hold for the whole model from now on. A
        ``Path`` is read now for its ids and again when served: it must not change.
        """
        with self._lock:
            model = self._models.setdefault(name, Model(name))
            model.gated = "auto" if gated is True else gated
            model.private = private
            return model.commit(files, revision).id

    def tag(self, name: str, tag: str, commit: str) -> None:
        """Make ``tag`` (or any other ref) of a model point at a commit."""
        with self._lock:
            self._models[name].refs[tag] = commit

    def require_token(self, token: str, *, access: bool = True) -> None:
        """Make ``token`` valid; ``access`` says whether it opens gated and private models.

        Public models stay open to everybody. From the first call on, a token never named is refused with 401
        everywhere; before it, every token is valid and opens nothing.
        """
        self._tokens[token] = access

    @property
    def leaked_credentials(self) -> list[Request]:
        """CDN requests that carried an Authorization header: must stay empty for a client that guards its token."""
        return [request for request in self.requests if request.host == "cdn" and "authorization" in request.headers]

    def answer(self, call: Call) -> Reply:
        """The hub's answer, or the CDN's when the request came to its host name."""
        if call.host == "cdn":
            return self._deliver(call)
        segments = call.segments
        try:
            match segments:
                case ["api", "resolve-cache", "models", owner, name, revision, *path]:
                    return self._resolve(call, f"{owner}/{name}", [revision, *path], from_cache=True)
                case ["api", "models", *rest]:
                    return self._api(call, rest)
                case _:
                    name, verb, rest = _split_repository(segments)
                    return self._resolve(call, name, rest) if verb == "resolve" else _no_page().reply(as_json=False)
        except _RefusedError as no:
            return no.reply(as_json=segments[0] == "api")

    def _api(self, call: Call, segments: Sequence[str]) -> Reply:
        name, verb, rest = _split_repository(segments)
        if verb not in {"", *_API_VERBS}:
            raise _no_page()
        revision, path = _split_revision(rest) if verb else ("main", "")
        model, commit = self._find(call, name, revision)
        match verb:
            case "tree":
                return self._tree(call, commit, path, revision)
            case "paths-info":
                return json_reply(200, _paths_info(call, commit))
            case _:
                return json_reply(200, _model_info(call, model, commit))

    def _tree(self, call: Call, commit: Commit, directory: str, revision: str) -> Reply:
        paths = commit.paths(directory, recursive=_flag(call, "recursive"))
        if paths is None:
            raise _RefusedError(404, "EntryNotFound", f'{directory} does not exist on "{revision}"', commit=commit)
        expand = _flag(call, "expand")
        longest = min(self.page_size, _EXPANDED_PAGE_SIZE) if expand else self.page_size
        parameters = call.parameters
        if cursor := parameters.get("cursor"):
            after = urlsafe_b64decode(cursor[0]).decode()
            paths = [path for path in paths if path > after]
        page = paths[: max(1, min(longest, int(parameters.get("limit", [str(longest)])[0])))]
        headers = {"X-Repo-Commit": commit.id}
        if len(page) < len(paths):
            following = parameters | {"cursor": [urlsafe_b64encode(page[-1].encode()).decode()]}
            headers["Link"] = f'<{self.endpoint}{call.path}?{urlencode(following, doseq=True)}>; rel="next"'
        return json_reply(200, _entries(commit, page, expand=expand), headers)

    def _resolve(self, call: Call, name: str, segments: Sequence[str], *, from_cache: bool = False) -> Reply:
        revision, path = _split_revision(segments)
        model, commit = self._find(call, name, revision, files=True)
        blob = commit.blobs.get(path)
        if blob is None:
            raise _RefusedError(404, "EntryNotFound", "Entry not found", commit=commit)
        headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
        etag = blob.sha256 or blob.oid
        redirects = self._resolve_cache and not (model.private or model.gated or from_cache)
        if blob.sha256 is None and not redirects:
            return Reply(200, headers | {"Content-Disposition": _disposition(path)}, blob.content, path, etag)
        if blob.sha256 is None:
            query = urlencode({call.path: "", "etag": f'"{etag}"'})
            status, location = 307, f"/api/resolve-cache/models/{name}/{commit.id}/{quote(path)}?{query}"
        else:
            status, location = 302, self._link(name, path, blob)
        headers |= {"Location": location, "X-Linked-Size": str(blob.size_bytes), "X-Linked-ETag": f'"{etag}"'}
        return Reply(status, headers, f"Redirecting to {location}".encode(), path, etag)

    def _find(self, call: Call, name: str, revision: str, *, files: bool = False) -> tuple[Model, Commit]:
        """The model and commit, for a visitor who may see them; ``files`` asks for content, which gating guards."""
        visitor = self._visitor(call)
        if visitor is _Visitor.UNKNOWN:
            raise _RefusedError(401, None, "Invalid credentials in Authorization header")
        model = self._models.get(name)
        if model is None or (model.private and visitor is not _Visitor.MEMBER):
            self._refuse_unknown(visitor)
        if files and model.gated and visitor is not _Visitor.MEMBER:
            self._refuse_gated(name, visitor)
        commit = model.find(revision)
        if commit is None:
            raise _RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return model, commit

    def _visitor(self, call: Call) -> _Visitor:
        scheme, _, token = call.headers.get("authorization", "").partition(" ")
        if not scheme:
            return _Visitor.ANONYMOUS
        if self._tokens and token not in self._tokens:
            return _Visitor.UNKNOWN
        return _Visitor.MEMBER if self._tokens.get(token) else _Visitor.STRANGER

    def _refuse_unknown(self, visitor: _Visitor) -> Never:
        if visitor is _Visitor.ANONYMOUS:
            raise _RefusedError(401, "RepoNotFound" if self._repo_not_found_code else None, _LOGIN)
        raise _RefusedError(404, "RepoNotFound", "Repository not found")

    def _refuse_gated(self, name: str, visitor: _Visitor) -> Never:
        restricted = f"Access to model {name} is restricted"
        if visitor is _Visitor.ANONYMOUS:
            need = "You must have access to it and be authenticated to access it. Please log in."
            raise _RefusedError(401, "GatedRepo", f"{restricted}. {need}")
        visit = f"Visit {self.endpoint}/{name} to ask for access."
        raise _RefusedError(403, "GatedRepo", f"{restricted} and you are not in the authorized list. {visit}")

    def _link(self, name: str, path: str, blob: Blob) -> str:
        key = sha256(f"{name}\n{path}\n{blob.sha256}".encode()).hexdigest()[:24]
        self._links[key] = (path, blob)
        location = f"/repos/{key[:2]}/{key[2:4]}/{key}/{blob.sha256}"
        expires = str(int(time.time() + self.link_seconds))
        query = {
            "response-content-disposition": _disposition(path),
            "Expires": expires,
            "Signature": _signature(location, expires),
            "Key-Pair-Id": "SIMULATOR",
        }
        return f"{self.cdn_endpoint}{location}?{urlencode(query)}"

    def _deliver(self, call: Call) -> Reply:
        """The CDN: bytes to whoever holds an unexpired link, and to nobody who sends credentials along."""
        key = call.path.split("/")[-2] if call.path.count("/") > 1 else ""
        path, blob = self._links.get(key, (None, None))
        if "authorization" in call.headers:
            return _cdn_refusal(400, "InvalidArgument", "Only one auth mechanism allowed", path)
        query = {name: values[0] for name, values in call.parameters.items()}
        expires = query.get("Expires", "")
        if blob is None or query.get("Signature") != _signature(call.path, expires):
            return _cdn_refusal(403, "AccessDenied", "Access denied", path)
        if time.time() >= int(expires):
            return _cdn_refusal(403, "AccessDenied", "Request has expired", path)
        headers = {"Content-Disposition": query.get("response-content-disposition", "inline")}
        return Reply(200, headers, blob.content, path, cdn_etag(blob.sha256 or ""))


def cdn_etag(digest: str) -> str:
    """The ETag the CDN gives the file with this sha256: as on the real CDN, not the X-Linked-ETag the hub gives it."""
    return sha256(f"cdn {digest}".encode()).hexdigest()


def _split_repository(segments: Sequence[str]) -> tuple[str, str, list[str]]:
    """``org/name`` (or an old bare ``name``), the verb after it ("" when the path ends there), and the rest."""
    cut = 1 if len(segments) > 1 and segments[1] in {"resolve", *_API_VERBS} else 2
    return "/".join(segments[:cut]), "".join(segments[cut : cut + 1]), list(segments[cut + 1 :])


def _split_revision(segments: Sequence[str]) -> tuple[str, str]:
    """The revision and the path below it; ``refs/pr/1`` may come as one encoded segment or as three."""
    cut = 3 if segments and segments[0] == "refs" else 1
    return "/".join(segments[:cut]), "/".join(segments[cut:])


def _model_info(call: Call, model: Model, commit: Commit) -> dict[str, object]:
    date = _date(commit)
    info: dict[str, object] = {
        "_id": sha256(model.name.encode()).hexdigest()[:24],
        "id": model.name,
        "modelId": model.name,
        "author": model.name.partition("/")[0],
        "sha": commit.id,
        "lastModified": date,
        "createdAt": date,
        "private": model.private,
        "gated": model.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": list(siblings(commit.blobs, with_blobs=_flag(call, "blobs"))),
    }
    if expand := call.parameters.get("expand"):
        return {name: value for name, value in info.items() if name in {"_id", "id", *expand}}
    return info


def _paths_info(call: Call, commit: Commit) -> list[dict[str, object]]:
    if "json" in call.headers.get("content-type", ""):
        asked = json.loads(call.body)
        return _entries(commit, asked["paths"], expand=asked.get("expand", False))
    form = parse_qs(call.body.decode())
    return _entries(commit, form.get("paths", []), expand=form.get("expand") == ["true"])


def _entries(commit: Commit, paths: Sequence[str], *, expand: bool) -> list[dict[str, object]]:
    found = [entry for path in paths if (entry := commit.entry(path.rstrip("/"))) is not None]
    if not expand:
        return found
    scan = {"status": "unscanned", "avScan": {"status": "unscanned"}, "pickleImportScan": {"status": "unscanned"}}
    last = {"lastCommit": {"id": commit.id, "title": commit.title, "date": _date(commit)}}
    return [entry | last | ({"securityFileStatus": scan} if entry["type"] == "file" else {}) for entry in found]


def _flag(call: Call, name: str) -> bool:
    return call.parameters.get(name, [""])[0].lower() in {"true", "1"}


def _date(commit: Commit) -> str:
    return commit.created.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _disposition(path: str) -> str:
    name = PurePosixPath(path).name
    plain = name.encode("ascii", "replace").decode().replace('"', "?")
    return f"inline; filename*=UTF-8''{quote(name)}; filename=\"{plain}\";"


def _signature(path: str, expires: str) -> str:
    return urlsafe_b64encode(hmac.digest(_SECRET, f"{path} {expires}".encode(), "sha256")).decode()


def _cdn_refusal(status: int, code: str, message: str, file: str | None) -> Reply:
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Reply(status, {"Content-Type": "application/xml"}, text.encode(), file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a directory until SIGINT or SIGTERM; the endpoint is the only line on stdout."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulators.hub", description="Serve DIR/org/name as models.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--port", type=int, default=0, help="port of 127.0.0.1 (default: a free one)")
    options = parser.parse_args(arguments)
    models = sorted(path for path in options.directory.glob("*/*") if path.is_dir())
    if not models:
        parser.error(f"no org/name directories in {options.directory}")
    quit_signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, quit_signals)
    with HubSimulator(port=options.port) as hub:
        for model in models:
            hub.add_model(f"{model.parent.name}/{model.name}", files_below(model))
        sys.stdout.write(f"{hub.endpoint}\n")
        sys.stdout.flush()
        signal.sigwait(quit_signals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
