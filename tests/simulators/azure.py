"""Azure's side of ``az://`` on one port: a storage account, Microsoft Entra's token endpoint, identity services.

Blobs are at ``/{account}/{container}/{blob}``, as emulators have them. The account lets in requests with a signature of
its key, which it makes again by itself, shared access signatures that it was told of, tokens that were given out and not
revoked, and anybody while ``is_public``. Token services keep what they were sent in ``grants``, by kind.
"""

from __future__ import annotations

import hmac
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate, parsedate_to_datetime
from hashlib import md5
from itertools import count
from threading import Lock
from typing import Any
from urllib.parse import parse_qsl, quote
from xml.sax.saxutils import escape

from tests.simulators.server import Call, FaultyServer, Reply, json_reply

ACCOUNT = "demoaccount"
KEY = b64encode(b"canary-key of the account " * 2).decode()
TENANT = "11111111-2222-3333-4444-555555555555"
_OPENID = "openid-configuration"
_SIGNED = (
    "content-encoding", "content-language", "content-length", "content-md5", "content-type", "date",
    "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range",
)  # fmt: skip
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Stored:
    """One blob. ``properties`` and ``metadata`` are what its listing says besides its length and etag."""

    data: bytes
    etag: str
    properties: Mapping[str, str]
    metadata: Mapping[str, str] = field(default_factory=dict)


class AzureSimulator(FaultyServer):
    """Containers by name. ``lifetime_seconds`` is how long tokens say that they live."""

    def __init__(self) -> None:
        self.containers: dict[str, dict[str, Stored]] = {}
        self.page_size = 5000
        self.is_public = False
        self.refused_as: tuple[int, str] = (409, "PublicAccessNotPermitted")
        self.denied_with: str | None = None
        self.lifetime_seconds = 86_400
        self.has_identity = True
        self.authority = ""
        self.grants: list[tuple[str, dict[str, str]]] = []
        self.tokens: list[str] = []
        self._valid: set[str] = set()
        self._signatures: set[str] = set()
        self._numbers = count(0x8DC000000000001)
        self._lock = Lock()
        super().__init__()

    @property
    def account_endpoint(self) -> str:
        """The endpoint of the account's blobs."""
        return f"{self.endpoint}/{ACCOUNT}"

    def put(
        self, container: str, name: str, data: bytes, metadata: Mapping[str, str] | None = None, **properties: str
    ) -> str:
        """Store a blob, with its MD5 in the listing unless ``Content_MD5`` says other things; its etag."""
        with self._lock:
            etag = f"0x{next(self._numbers):X}"
        named = {name.replace("_", "-"): value for name, value in properties.items()}
        listed = {"Content-MD5": b64encode(md5(data).digest()).decode(), "BlobType": "BlockBlob"} | named
        kept = {key: value for key, value in listed.items() if value}
        self.containers.setdefault(container, {})[name] = Stored(data, etag, kept, metadata or {})
        return etag

    def shared_access(self, permissions: str = "rl", *, seconds: float = 3600) -> str:
        """A shared access signature that is accepted."""
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
        text = f"sv=2021-12-02&sr=c&sp={permissions}&se={quote(ends)}&sig=canary-sas%2B{len(self._signatures)}%3D"
        self.accept(text)
        return text

    def accept(self, signature: str) -> None:
        """Let in what has this shared access signature."""
        self._signatures.add(dict(parse_qsl(signature))["sig"])

    def revoke(self) -> None:
        """Reject every token given out so far."""
        self._valid = set()

    def respond(self, call: Call) -> Any:
        """As any server's, but ``x-ms-range`` is a range too, and stronger."""
        if "x-ms-range" in call.headers:
            call = replace(call, headers={**call.headers, "range": call.headers["x-ms-range"]})
        return super().respond(call)

    def answer(self, call: Call) -> Reply:
        match call.segments:
            case [account, container, *name] if account == ACCOUNT:
                return self._refusal(call) or self._storage(call, container, "/".join(name))
            case [tenant, "v2.0", ".well-known", document] if tenant == TENANT and document == _OPENID:
                return self._discovery()
            case [tenant, "oauth2", "v2.0", "token"] if tenant == TENANT and call.method == "POST":
                return self._entra(call)
            case ["metadata", "identity", "oauth2", "token"]:
                return self._machine(call)
            case ["msi", "token"]:
                return self._app_service(call)
        return _error(400, "InvalidUri")

    def _refusal(self, call: Call) -> Reply | None:
        """What keeps the caller out; None for nothing."""
        if "x-ms-version" not in call.headers:
            return _error(400, "MissingRequiredHeader")
        kind, _, value = call.headers.get("authorization", "").partition(" ")
        query = dict(parse_qsl(call.query))
        if kind == "SharedKey":
            if value != f"{ACCOUNT}:{_signature(call)}" or not _is_recent(call):
                return _error(403, "AuthenticationFailed")
        elif kind == "Bearer":
            if value not in self._valid:
                challenge = {"WWW-Authenticate": f"Bearer authorization_uri={self.authority}/{TENANT}/oauth2/authorize"}
                return _error(401, "InvalidAuthenticationInfo", challenge)
        elif "sig" in query:
            if query["sig"] not in self._signatures or not _has_not_ended(query):
                return _error(403, "AuthenticationFailed")
            if ("l" if "comp" in query else "r") not in query["sp"]:
                return _error(403, "AuthorizationPermissionMismatch")
        elif not self.is_public:
            return _error(*self.refused_as)
        return _error(403, self.denied_with) if self.denied_with else None

    def _storage(self, call: Call, container: str, name: str) -> Reply:
        if container not in self.containers:
            return _error(404, "ContainerNotFound")
        if not name:
            is_listing = call.parameters.get("comp") == ["list"] and call.parameters.get("restype") == ["container"]
            return self._listing(call, container) if is_listing else _error(400, "InvalidQueryParameterValue")
        found = self.containers[container].get(name)
        if found is None:
            return _error(404, "BlobNotFound")
        if found.properties.get("AccessTier") == "Archive":
            return _error(409, "BlobArchived")
        if call.headers.get("if-match", "*") not in ("*", f'"{found.etag}"'):
            return _error(412, "ConditionNotMet")
        digest = found.properties.get("Content-MD5", "")
        header = "x-ms-blob-content-md5" if "range" in call.headers else "Content-MD5"
        headers = {"x-ms-version": call.headers["x-ms-version"], "x-ms-blob-type": "BlockBlob"}
        headers |= {"Last-Modified": formatdate(0, usegmt=True), "x-ms-creation-time": formatdate(0, usegmt=True)}
        return Reply(200, headers | ({header: digest} if digest else {}), found.data, file=name, etag=found.etag)

    def _listing(self, call: Call, container: str) -> Reply:
        asked = {key: values[0] for key, values in call.parameters.items()}
        names = sorted(name for name in self.containers[container] if name.startswith(asked.get("prefix", "")))
        start = int(b64decode(asked["marker"])) if "marker" in asked else 0
        page = names[start : start + min(self.page_size, int(asked.get("maxresults", "5000")))]
        more = start + len(page) < len(names)
        marker = b64encode(str(start + len(page)).encode()).decode() if more else ""
        with_metadata = "metadata" in asked.get("include", "").split(",")
        blobs = "".join(_blob(name, self.containers[container][name], with_metadata) for name in page)
        body = (
            '\ufeff<?xml version="1.0" encoding="utf-8"?>'
            f'<EnumerationResults ServiceEndpoint="{self.account_endpoint}/" ContainerName="{container}">'
            f"<MaxResults>5000</MaxResults><Blobs>{blobs}</Blobs><NextMarker>{marker}</NextMarker>"
            "</EnumerationResults>"
        )
        return Reply(200, {"Content-Type": "application/xml"}, body.encode())

    def _discovery(self) -> Reply:
        base = f"{self.authority}/{TENANT}"
        return json_reply(
            200,
            {
                "issuer": f"{base}/v2.0",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            },
        )

    def _entra(self, call: Call) -> Reply:
        sent = dict(parse_qsl(call.body.decode()))
        self.grants.append(("assertion" if "client_assertion" in sent else "secret", sent))
        if "canary-refused" in call.body.decode():
            said = f"AADSTS7000215: Invalid client secret provided: {call.body.decode()}"
            return json_reply(401, {"error": "invalid_client", "error_description": said})
        granted = {"token_type": "Bearer", "expires_in": self.lifetime_seconds, "access_token": self._new_token()}
        return json_reply(200, granted)

    def _machine(self, call: Call) -> Reply:
        if call.headers.get("metadata") != "true":
            return json_reply(400, {"error": "invalid_request", "error_description": "Required metadata header"})
        if not self.has_identity:
            return json_reply(400, {"error": "invalid_request", "error_description": "Identity not found"})
        return self._identity(call, "machine")

    def _app_service(self, call: Call) -> Reply:
        if call.headers.get("x-identity-header") != "canary-header":
            return json_reply(401, {"statusCode": 401, "message": "Unauthorized"})
        return self._identity(call, "app service")

    def _identity(self, call: Call, kind: str) -> Reply:
        self.grants.append((kind, {name: values[0] for name, values in call.parameters.items()}))
        ends = {"expires_in": str(self.lifetime_seconds), "expires_on": str(int(time.time()) + self.lifetime_seconds)}
        resource = {"resource": call.parameters["resource"][0], "token_type": "Bearer"}
        return json_reply(200, {"access_token": self._new_token(), **ends, **resource})

    def _new_token(self) -> str:
        with self._lock:
            token = f"eyJ0.canary-token-{len(self.tokens)}"
            self.tokens.append(token)
            self._valid.add(token)
        return token

    def give_token(self) -> str:
        """A token as a program may have it from its login."""
        return self._new_token()


def _signature(call: Call) -> str:
    """What the account's key makes of a request, by Microsoft's description of Shared Key."""
    sent = {name: value for name, value in call.headers.items() if name != "range" or "x-ms-range" not in call.headers}
    lines = [call.method, *(sent.get(name, "") for name in _SIGNED)]
    lines += [f"{name}:{call.headers[name]}" for name in sorted(call.headers) if name.startswith("x-ms-")]
    resource = f"/{ACCOUNT}{call.path}"
    for name in sorted(call.parameters, key=str.lower):
        resource += f"\n{name.lower()}:{','.join(sorted(call.parameters[name]))}"
    digest = hmac.new(b64decode(KEY), "\n".join([*lines, resource]).encode(), "sha256").digest()
    return b64encode(digest).decode()


def _is_recent(call: Call) -> bool:
    text = call.headers.get("x-ms-date", "")
    return bool(text) and abs(parsedate_to_datetime(text).timestamp() - time.time()) < 15 * 60


def _has_not_ended(query: Mapping[str, str]) -> bool:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return "sv" in query and query.get("se", "") > now


def _blob(name: str, stored: Stored, with_metadata: bool) -> str:
    encoded = bool(_NOT_XML.search(name))
    shown = quote(name, safe="/") if encoded else escape(name)
    properties = {"Last-Modified": formatdate(0, usegmt=True), "Etag": stored.etag}
    properties |= {"Content-Length": str(len(stored.data)), **stored.properties}
    told = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in properties.items())
    metadata = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in stored.metadata.items())
    return (
        f"<Blob><Name{' Encoded=' + chr(34) + 'true' + chr(34) if encoded else ''}>{shown}</Name>"
        f"<Properties>{told}</Properties>{f'<Metadata>{metadata}</Metadata>' if with_metadata else ''}</Blob>"
    )


def _error(status: int, code: str, headers: Mapping[str, str] | None = None) -> Reply:
    body = f'\ufeff<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>No.\nRequestId:1</Message></Error>'
    return Reply(status, {"Content-Type": "application/xml", "x-ms-error-code": code, **(headers or {})}, body.encode())
