"""Single files on any HTTP server: ``http(s)://host/path?file=name``, as manifests name them and mirrors hold them.

HTTP has no listing: a file that is named is looked at, a whole model is not found this way. Rules kept here:

* the file's name is encoded whole, so that a name with ``%2F`` in it (a flat key of a mirror) stays ``%252F`` here;
* the token goes to the server that is named, and follows no redirect to another host;
* a strong etag guards every byte (``If-Match``, and the answer's own); without one the time of change does;
* the SHA-256 is promised where the server tells it: ``Repr-Digest`` (RFC 9530), or Artifactory's ``X-Checksum-Sha256``.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

from lading.digest import Digest
from lading.errors import (
    ContentError,
    FileNotFoundAtSource,
    SourceError,
    SourceProtocolError,
    Unauthorized,
    UsageError,
)
from lading.model.manifest import FileEntry, Manifest
from lading.secret import Secret
from lading.sources.answer import Answer, Response, file_bytes, range_header, read_range, strong_etag
from lading.sources.http import HttpClient
from lading.sources.interface import LIST_AGAIN, Access, RangeReader, is_empty_range, usable_token
from lading.sources.member import About, Context
from lading.sources.urls import redacted
from lading.uri import ModelUri

_IN_PATHS = "/-._~!$&'()*+,;=:@"
_REPR_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):")
_HEX = re.compile(r"[0-9a-fA-F]{64}")

ABOUT = About(
    title="Files of an HTTP server",
    credentials=("`LADING_HTTP_TOKEN`: a bearer token, or `user:password`", "none"),
    endpoint="the server in the URI",
    pinned_by="the etag (`If-Match`), else the time of change",
    checksum="SHA-256 where the server tells it (`Repr-Digest`, `X-Checksum-Sha256`), or the manifest's",
    resume="byte ranges; servers without them are read over one connection",
    tested_against="nginx's and Python's own behaviour in a scripted server",
    notes=(
        "HTTP has no listing: files are named by a manifest, or the server is a mirror that `NIM_REPOSITORY_OVERRIDE` "
        "names",
    ),
)


def connect(context: Context) -> WebSource:
    """All servers."""
    return WebSource(context.client, context.settings.http_token)


class WebSource:
    """HTTP servers, asked with ``token`` (a bearer token, or ``user:password``) or anonymously."""

    in_place = False

    def __init__(self, client: HttpClient, token: Secret | None = None) -> None:
        self._client = client
        self._token = usable_token(token, "LADING_HTTP_TOKEN")

    def access(self, model: ModelUri) -> Access:
        """The server's address, and the token's name."""
        return Access(redacted(_url(model.model)), self._token.name if self._token else None)

    def list_files(self, model: ModelUri) -> Manifest:
        """The one file that ``?file=`` names; UsageError for a whole model."""
        if model.file is None:
            raise UsageError(
                f"{model} cannot be listed: HTTP servers tell nobody what they hold",
                remedy="serve the model from a hub, a bucket or a directory; for a mirror of NGC's files set "
                f"NIM_REPOSITORY_OVERRIDE={model} and name the model by its ngc:// location",
            )
        return Manifest.of(model, None, [self.look_at(model, model.file)])

    def look_at(self, file: ModelUri, path: str) -> FileEntry:
        """The entry, at ``path`` of a manifest, of a file whose URI is ``file``."""
        answer = self._client.peek(_url(file), self._headers())
        if answer.status not in (200, 206, 416):
            raise _refusal(answer, file)
        size_bytes = file_bytes(answer)
        if size_bytes is None:
            raise SourceProtocolError(
                f"{redacted(answer.url)} does not tell its size",
                remedy="serve it with Content-Length, as a static file; no login page may answer in its place",
            )
        return FileEntry(path, size_bytes, file, _digest(answer.headers), _version(answer.headers))

    @contextmanager
    def open_range(self, file: FileEntry, start: int, end: int) -> Iterator[RangeReader]:
        """The bytes of one range of the file as it was listed."""
        if is_empty_range(file, start, end):
            yield BytesIO()
            return
        wanted = {**self._headers(), **_if_match(file), **range_header(start, end)}
        with ExitStack() as stack:
            response = stack.enter_context(self._client.open(_url(file.uri), wanted))
            response.raise_if_passing()
            if response.status not in (200, 206, 416):
                raise _refusal(response, file.uri)
            if file.etag and _version(response.headers) not in (None, file.etag):
                raise _changed(file.uri)
            yield read_range(response, start, end, file.size_bytes)

    def local_copy(self, file: FileEntry) -> Path | None:  # noqa: ARG002  # the port's signature
        """None: no copy is kept on this machine."""
        return None

    def _headers(self) -> dict[str, str]:
        if self._token is None:
            return {}
        text = self._token.reveal()
        if ":" in text:
            return {"Authorization": f"Basic {b64encode(text.encode()).decode()}"}
        return {"Authorization": f"Bearer {text}"}


def _url(file: ModelUri) -> str:
    host, _, path = file.location.partition("/")
    parts = [quote(part, safe=_IN_PATHS) for part in (path, file.file) if part]
    return f"{file.scheme}://{'/'.join([host, *parts])}"


def _version(headers: Mapping[str, str]) -> str | None:
    """What tells this version of a file from others: a strong etag, else the time of change, else nothing."""
    if etag := strong_etag(headers):
        return etag
    return headers.get("Last-Modified", "").strip()[:64] or None


def _if_match(file: FileEntry) -> dict[str, str]:
    return {"If-Match": file.etag} if file.etag and file.etag.startswith('"') else {}


def _digest(headers: Mapping[str, str]) -> Digest | None:
    if found := _REPR_DIGEST.search(headers.get("Repr-Digest", "")):
        return Digest("sha256", b64decode(found[1]).hex())
    told = headers.get("X-Checksum-Sha256", "").strip()
    return Digest("sha256", told.lower()) if _HEX.fullmatch(told) else None


def _changed(file: ModelUri) -> ContentError:
    return ContentError(f"{file} changed after it was listed", remedy=LIST_AGAIN)


def _refusal(answer: Answer | Response, file: ModelUri) -> SourceError | ContentError:
    """The error for an answer that is no file, by its status."""
    where = redacted(answer.url)
    match answer.status:
        case 401 | 403 | 407:
            return Unauthorized(
                f"{where} may not be read (HTTP {answer.status})",
                remedy="set LADING_HTTP_TOKEN to a token, or to user:password, that may read it",
            )
        case 404 | 410:
            return FileNotFoundAtSource(f"{where} is not there (HTTP {answer.status})", remedy="check host and path")
        case 412:
            return _changed(file)
    return SourceProtocolError(f"{where} answers HTTP {answer.status}", remedy="check host and path")
