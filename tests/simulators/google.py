"""Google's side of ``gs://`` on one port: storage with generations, token endpoints, STS, a metadata server.

What the emulator from PyPI does not do: pages, generations that pass away, credentials. Storage asks for a token once
``require_token`` was called and takes those that were given out and not revoked; token endpoints keep what they were
sent in ``grants``, by path.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import md5
from itertools import count
from threading import Lock
from urllib.parse import parse_qsl

from lading.digest import new_hasher
from tests.simulators.part_uploads import PartUploads, metadata
from tests.simulators.server import Call, FaultyServer, Reply, json_reply


@dataclass(frozen=True, slots=True)
class Stored:
    """One object at one generation; ``listed`` is what its listing says besides name, size and generation."""

    data: bytes
    generation: int
    listed: Mapping[str, object]


class GoogleSimulator(FaultyServer):
    """Buckets by name. ``lifetime_seconds`` is how long tokens say that they live."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Stored]] = {}
        self.page_size = 1000
        self.lifetime_seconds = 3600
        self.forbidden = False
        self.has_service_account = True
        self.is_metadata_server = True
        self.grants: list[tuple[str, dict[str, str]]] = []
        self.tokens: list[str] = []
        self._valid: set[str] | None = None
        self._numbers = count(1_700_000_000_000_001)
        self.uploads: dict[str, PartUploads] = {}
        self.takes_parts = True
        self._lock = Lock()
        super().__init__()

    def put(self, bucket: str, key: str, data: bytes, **listed: object) -> int:
        """Store an object, with its MD5 in the listing unless ``listed`` says other things; its generation."""
        with self._lock:
            generation = next(self._numbers)
        listed = listed or {"md5Hash": b64encode(md5(data).digest()).decode()}
        self.buckets.setdefault(bucket, {})[key] = Stored(data, generation, listed)
        return generation

    def require_token(self) -> None:
        """Let nobody in without a token that was given out from now on."""
        self._valid = set()

    def revoke(self) -> None:
        """Reject every token given out so far."""
        self._valid = set()

    def answer(self, call: Call) -> Reply:
        match call.segments:
            case ["storage", "v1", "b", bucket, "o", *key]:
                return self._refusal(call) or self._changed(call, bucket, key) or self._storage(call, bucket, key)
            case ["upload", "storage", "v1", "b", bucket, "o"]:
                return self._refusal(call) or self._uploaded(call, bucket)
            case ["token" | "sts" as kind]:
                return self._grant(call, kind)
            case ["v1", "projects", "-", "serviceAccounts", _]:
                return self._grant(call, "impersonate")
            case ["subject"]:
                return Reply(200, {}, b"subject-from-url")
            case [""] if self.is_metadata_server:
                return Reply(200, {"Metadata-Flavor": "Google"}, b"computeMetadata/\n")
            case ["computeMetadata", "v1", "instance", "service-accounts", "default", "token"]:
                return self._metadata(call)
            case [bucket, *key] if bucket in self.buckets:
                return self._refusal(call) or self._in_parts(call, bucket, "/".join(key))
        return _error(404, "no such page")

    def _changed(self, call: Call, bucket: str, key: list[str]) -> Reply | None:
        """The answer to what is asked about an object itself; None for lists and bytes."""
        objects, name = self.buckets.get(bucket, {}), "/".join(key)
        if not key or "alt" in call.parameters:
            return None
        if name not in objects:
            return _error(404, f"No such object: {bucket}/{name}")
        if call.method == "DELETE":
            del objects[name]
            return Reply(204)
        return json_reply(200, self._item(bucket, name))

    def _uploaded(self, call: Call, bucket: str) -> Reply:
        """An object in one request: its description, then its bytes (RFC 2387)."""
        cut = b"--" + call.headers["content-type"].partition("boundary=")[2].encode()
        _, about, data, end = call.body.split(cut)
        told = json.loads(about.partition(b"\r\n\r\n")[2])
        data = data.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        if bucket not in self.buckets:
            return _error(404, "The specified bucket does not exist.")
        if end != b"--\r\n" or told["md5Hash"] != b64encode(md5(data).digest()).decode():
            return _error(400, "Provided MD5 hash doesn't match calculated MD5 hash.")
        self.put(bucket, told["name"], data, md5Hash=told["md5Hash"], crc32c=_crc32c(data), metadata=told["metadata"])
        return json_reply(200, self._item(bucket, told["name"]))

    def _in_parts(self, call: Call, bucket: str, key: str) -> Reply:
        """The XML API's uploads in parts. What they make has no MD5."""

        def store(key: str, data: bytes, headers: Mapping[str, str], _: str) -> None:
            self.put(bucket, key, data, crc32c=_crc32c(data), metadata=metadata(headers, "goog"))

        if not self.takes_parts:
            return Reply(501)
        return self.uploads.setdefault(bucket, PartUploads()).answer(call, key, store) or _error(404, "no such call")

    def _refusal(self, call: Call) -> Reply | None:
        if self._valid is None:
            return None
        authorization = call.headers.get("authorization", "")
        if not authorization:
            return _error(401, "Anonymous caller does not have storage.objects.list access.")
        if authorization.removeprefix("Bearer ") not in self._valid:
            return _error(401, "Invalid Credentials")
        return _error(403, "demo@example.test does not have storage access.") if self.forbidden else None

    def _storage(self, call: Call, bucket: str, key: list[str]) -> Reply:
        if bucket not in self.buckets:
            return _error(404, "The specified bucket does not exist.")
        if not key:
            return json_reply(200, self._listing(call, bucket))
        name = "/".join(key)
        found = self.buckets[bucket].get(name)
        if found is None or call.parameters["generation"] != [str(found.generation)]:
            return _error(404, f"No such object: {bucket}/{name}")
        headers = {"X-Goog-Generation": str(found.generation)}
        return Reply(200, headers, found.data, file=name, etag=str(found.generation))

    def _listing(self, call: Call, bucket: str) -> dict[str, object]:
        prefix = call.parameters["prefix"][0]
        names = sorted(name for name in self.buckets[bucket] if name.startswith(prefix))
        start = int(call.parameters.get("pageToken", ["0"])[0])
        page = names[start : start + self.page_size]
        listing: dict[str, object] = {"items": [self._item(bucket, name) for name in page]} if page else {}
        if start + len(page) < len(names):
            listing["nextPageToken"] = str(start + len(page))
        return listing

    def _item(self, bucket: str, name: str) -> dict[str, object]:
        found = self.buckets[bucket][name]
        return {
            "name": name,
            "size": str(len(found.data)),
            "generation": str(found.generation),
            **found.listed,
        }

    def _grant(self, call: Call, kind: str) -> Reply:
        text = call.body.decode()
        sent = json.loads(text) if text.startswith("{") else dict(parse_qsl(text))
        self.grants.append((kind, sent | {"authorization": call.headers.get("authorization", "")}))
        if "canary-refused" in text:
            return json_reply(400, {"error": "invalid_grant", "error_description": f"not {text}"})
        token = self._new_token()
        if kind == "impersonate":
            return json_reply(200, {"accessToken": token, "expireTime": "2099-01-01T00:00:00Z"})
        issued = {"issued_token_type": "urn:ietf:params:oauth:token-type:access_token", "token_type": "Bearer"}
        return json_reply(200, {"access_token": token, "expires_in": self.lifetime_seconds, **issued})

    def _metadata(self, call: Call) -> Reply:
        if call.headers.get("metadata-flavor") != "Google":
            return _error(403, "Missing Metadata-Flavor:Google header.")
        if not self.has_service_account:
            return _error(404, "no service account")
        self.grants.append(("metadata", {}))
        token = {"access_token": self._new_token(), "expires_in": self.lifetime_seconds, "token_type": "Bearer"}
        return json_reply(200, token)

    def _new_token(self) -> str:
        with self._lock:
            token = f"ya29.canary-{len(self.tokens)}"
            self.tokens.append(token)
            if self._valid is not None:
                self._valid.add(token)
        return token


def _crc32c(data: bytes) -> str:
    hasher = new_hasher("crc32c", len(data))
    hasher.update(data)
    return b64encode(bytes.fromhex(hasher.hexdigest())).decode()


def _error(status: int, message: str) -> Reply:
    return json_reply(status, {"error": {"code": status, "message": message, "errors": [{"message": message}]}})
