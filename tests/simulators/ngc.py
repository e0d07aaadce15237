"""A working stand-in for NVIDIA NGC, good enough for the real ``ngcsdk`` to list and download models from.

``NgcSimulator`` is the model API, the token service (``/token``) and the storage that signed links lead to. Storage has
another host name, where credentials are refused. What keys open is told by ``add_key``; guests see public models only,
under the paths that NGC has for them. Every path here was read in ngcsdk 4.37 and checked by running it.
"""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from secrets import token_hex
from threading import Lock
from urllib.parse import quote

from .server import Call, FaultyServer, Reply, Request, json_reply

_CREATED = "2026-01-02T03:04:05.000Z"


@dataclass
class Version:
    """One version of a model: its files, and whether its upload is complete."""

    files: dict[str, bytes]
    status: str = "UPLOAD_COMPLETE"


@dataclass
class _Model:
    org: str
    team: str | None
    name: str
    public: bool
    terms: bool
    versions: dict[str, Version] = field(default_factory=dict)


@dataclass(frozen=True)
class _Key:
    opens: frozenset[str]
    accepted: bool


class _RefusedError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class NgcSimulator(FaultyServer):
    """NGC, from construction to ``stop``. ``endpoint`` serves as both NGC_CLI_API_URL and NGC_CLI_AUTH_URL.

    The lives of links and tokens, the longest page, and whether digests are told may be changed at any time.
    ``expires_in`` None leaves out when a token expires.
    """

    def __init__(self, *, port: int = 0) -> None:
        self.page_size = 1000
        self.link_seconds = 3600.0
        self.token_seconds = 3600.0
        self.expires_in: float | None = 3600
        self.digests = True
        self._models: dict[str, _Model] = {}
        self._keys: dict[str, _Key] = {}
        self._tokens: dict[str, tuple[str, frozenset[str], float]] = {}
        self._links: dict[str, tuple[str, bytes, float]] = {}
        self._lock = Lock()
        super().__init__(port=port)

    def add_model(
        self, location: str, version: str, files: Mapping[str, bytes], *, public: bool = False, terms: bool = False
    ) -> Version:
        """Put ``files`` into a version of ``org/[team/]name``; ``terms``: they must be accepted before files are told."""
        org, *teams, name = location.split("/")
        with self._lock:
            model = self._models.setdefault(location, _Model(org, teams[0] if teams else None, name, public, terms))
            model.public, model.terms = public, terms
            return model.versions.setdefault(version, Version(dict(files)))

    def add_key(self, key: str, *opens: str, accepted: bool = True) -> None:
        """Make ``key`` valid for the orgs it ``opens``; ``accepted``: its account has accepted all terms."""
        self._keys[key] = _Key(frozenset(opens), accepted)

    def revoke_tokens(self) -> None:
        """Make every token issued so far worthless."""
        self._tokens.clear()

    @property
    def leaked_credentials(self) -> list[Request]:
        """Requests to storage that carried a key, a token or a guest's id: must stay empty."""
        told = {"authorization", "x-ngc-guest-token"}
        return [request for request in self.requests if request.host == "cdn" and told & request.headers.keys()]

    @property
    def exchanges(self) -> list[Request]:
        """The requests for a token."""
        return [request for request in self.requests if request.path == "/token"]

    def answer(self, call: Call) -> Reply:
        """The registry's answer, or the storage's when the request came to its host name."""
        if call.host == "cdn":
            return self._deliver(call)
        try:
            match call.segments:
                case ["token"]:
                    return self._exchange(call)
                case ["v3", "keys", "get-caller-info"]:
                    return json_reply(200, {"type": "PERSONAL_KEY", "orgName": "acme", "user": {"roles": [{}]}})
                case ["v2", "models", "org", org, *rest]:
                    return self._model(call, org, rest, guest=True)
                case ["v2", "models", *rest]:
                    return self._listed_for_guests(call, rest)
                case ["v2", "org", org, *rest]:
                    return self._model(call, org, rest, guest=False)
            raise _not_found(call.path)
        except _RefusedError as no:
            status = {"statusCode": no.code, "statusDescription": no.message, "requestId": "0"}
            return json_reply(no.status, {"requestStatus": status}, {})

    def _listed_for_guests(self, call: Call, rest: list[str]) -> Reply:
        """``org/[team/]name`` without the words between: how guests list."""
        for length in (3, 2):
            model = self._models.get("/".join(rest[:length]))
            if model:
                return self._tell(call, model, rest[length:], guest=True)
        raise self._hidden(call, "/".join(rest))

    def _model(self, call: Call, org: str, rest: list[str], *, guest: bool) -> Reply:
        team, rest = (rest[1], rest[2:]) if rest[:1] == ["team"] else (None, rest)
        rest = rest if guest else rest[1:]
        location = "/".join(part for part in (org, team, *rest[:1]) if part)
        model = self._models.get(location)
        if model is None:
            raise self._hidden(call, location)
        return self._tell(call, model, rest[1:], guest=guest)

    def _hidden(self, call: Call, location: str) -> _RefusedError:
        """What nobody may know of: guests are told to log in, members that it is not there."""
        if "authorization" not in call.headers:
            return _RefusedError(401, "UNAUTHORIZED", "Authentication required")
        self._visitor(call)
        return _not_found(location)

    def _tell(self, call: Call, model: _Model, rest: list[str], *, guest: bool) -> Reply:
        key = self._admit(call, model, guest=guest)
        match rest:
            case []:
                return json_reply(200, {"model": {"name": model.name, "orgName": model.org, "licenseTerms": []}})
            case ["versions"]:
                versions = [{"versionId": name, "status": each.status} for name, each in model.versions.items()]
                return json_reply(200, {"modelVersions": versions, "paginationInfo": {"totalPages": 1}})
        name = rest[1] if rest[0] == "versions" else rest[0]
        version = model.versions.get(name)
        if version is None:
            raise _not_found(name)
        if rest == ["versions", name]:
            return json_reply(200, {"modelVersion": {"versionId": name, "status": version.status}})
        if model.terms and not (key and key.accepted):
            raise _RefusedError(412, "PRECONDITION_FAILED", "Terms of use must be accepted")
        return self._files(call, version) if rest[0] == "versions" else self._signed(call, version)

    def _admit(self, call: Call, model: _Model, *, guest: bool) -> _Key | None:
        if guest:
            if not model.public or "x-ngc-guest-token" not in call.headers:
                raise _RefusedError(401, "UNAUTHORIZED", "Authentication required")
            return None
        key, scopes = self._visitor(call)
        wanted = f"group/ngc:{model.org}/{model.team}" if model.team else f"group/ngc:{model.org}"
        if not model.public and (model.org not in key.opens or (scopes and wanted not in scopes)):
            raise _RefusedError(403, "FORBIDDEN", "Missing entitlement")
        return key

    def _visitor(self, call: Call) -> tuple[_Key, frozenset[str]]:
        scheme, _, token = call.headers.get("authorization", "").partition(" ")
        if scheme == "Bearer" and token in self._keys and ("." in token or token.startswith("nvapi-")):
            return self._keys[token], frozenset()
        key, scopes, expires = self._tokens.get(token, ("", frozenset(), 0.0))
        if scheme != "Bearer" or time.time() >= expires:
            raise _RefusedError(401, "UNAUTHORIZED", "Invalid credentials")
        return self._keys[key], scopes

    def _exchange(self, call: Call) -> Reply:
        scheme, _, basic = call.headers.get("authorization", "").partition(" ")
        user, _, key = b64decode(basic).decode().partition(":")
        if scheme != "Basic" or user != "$oauthtoken" or key not in self._keys or key.startswith("nvapi-"):
            raise _RefusedError(401, "UNAUTHORIZED", f"Invalid apikey {key}")
        token = token_hex(16)
        scopes = frozenset(call.parameters.get("scope", []))
        self._tokens[token] = (key, scopes, time.time() + self.token_seconds)
        expiry = {} if self.expires_in is None else {"expires_in": self.expires_in}
        return json_reply(200, {"token": token, **expiry})

    def _files(self, call: Call, version: Version) -> Reply:
        size = min(self.page_size, int(call.parameters.get("page-size", ["100"])[0]))
        number = int(call.parameters.get("page-number", ["0"])[0])
        page = list(version.files.items())[number * size : (number + 1) * size]
        info = _pagination(len(version.files), size, number)
        return json_reply(200, {"modelFiles": [self._file(*each) for each in page], "paginationInfo": info})

    def _file(self, path: str, data: bytes) -> dict[str, object]:
        digest = {"sha256_base64": b64encode(sha256(data).digest()).decode()} if self.digests else {}
        return {"path": path, "sizeInBytes": len(data), "createdDate": _CREATED, **digest}

    def _signed(self, call: Call, version: Version) -> Reply:
        """Links to the file asked for, or to all."""
        paths = call.parameters.get("path") or list(version.files)
        if not paths[0] or paths[0] not in version.files:
            raise _not_found(paths[0])
        urls = [self._sign(path, version.files[path]) for path in paths]
        info = _pagination(len(paths), max(1, len(paths)), 0)
        return json_reply(200, {"filepath": paths, "urls": urls, "paginationInfo": info})

    def _sign(self, path: str, data: bytes) -> str:
        signature = token_hex(16)
        self._links[signature] = (path, data, time.time() + self.link_seconds)
        return f"{self.cdn_endpoint}/files/{quote(path)}?X-Amz-Signature={signature}"

    def _deliver(self, call: Call) -> Reply:
        """The storage: bytes to whoever holds a link that is still valid, nothing to who sends credentials along."""
        path, data, expires = self._links.get(call.parameters.get("X-Amz-Signature", [""])[0], ("", b"", 0.0))
        if {"authorization", "x-ngc-guest-token"} & call.headers.keys():
            return Reply(400, {}, b"<Code>InvalidArgument</Code>", path)
        if time.time() >= expires:
            return Reply(403, {}, b"<Code>AccessDenied</Code>", path or None)
        return Reply(200, {}, data, path, sha256(data).hexdigest())


def _not_found(what: str) -> _RefusedError:
    return _RefusedError(404, "NOT_FOUND", f"Not found: {what}")


def _pagination(total: int, size: int, index: int) -> dict[str, int]:
    return {"index": index, "size": size, "totalPages": -(-total // size), "totalResults": total}
