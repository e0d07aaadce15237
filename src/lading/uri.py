"""Where a model, or one file of it, lives: the URIs of model-free NIM as one value.

Accepted forms::

    hf://{org}/{model}[:{revision}][?file={path}]             revision: branch, tag or commit; default main
    modelscope://{org}/{model}[:{revision}][?file={path}]     default master
    ngc://{org}/[{team}/]{model}:{version}[?file={path}]      the version is required
    s3://{bucket}[/{prefix}][?file={path}]
    gs://{bucket}[/{prefix}][?file={path}]
    az://{account}/{container}[/{prefix}][?file={path}]
    http://{host}[:{port}][/{path}][?file={path}]             also https://
    local://{absolute path}[?file={path}]                     the form that manifests use
    {absolute path}                                           a directory on this machine; taken as it stands
    manifest://{digest}[?file={path}]                         files that a NIM manifest lists, as the cache names them

Percent-encoding is decoded when parsed and written where a character would be read as syntax, so
``parse(str(uri)) == uri`` for every value and ``str(parse(text)) == text`` for every text in canonical form.
A bare path is never decoded. Anything ambiguous is refused with the accepted forms.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import PurePosixPath
from urllib.parse import quote, unquote_to_bytes

from lading.errors import UsageError


class Scheme(StrEnum):
    """How a location is written; the value is the text before ``://`` (``path`` has none)."""

    HF = "hf"
    MODELSCOPE = "modelscope"
    NGC = "ngc"
    S3 = "s3"
    GS = "gs"
    AZ = "az"
    HTTP = "http"
    HTTPS = "https"
    LOCAL = "local"
    PATH = "path"
    MANIFEST = "manifest"


FORMS = {
    Scheme.HF: "hf://{org}/{model}[:{revision}][?file={path}]",
    Scheme.NGC: "ngc://{org}/[{team}/]{model}:{version}[?file={path}]",
    Scheme.MODELSCOPE: "modelscope://{org}/{model}[:{revision}][?file={path}]",
    Scheme.S3: "s3://{bucket}[/{prefix}][?file={path}]",
    Scheme.GS: "gs://{bucket}[/{prefix}][?file={path}]",
    Scheme.AZ: "az://{account}/{container}/{prefix}[?file={path}]",
    Scheme.HTTP: "http://{host}[:{port}]/{path}[?file={path}]",
    Scheme.HTTPS: "https://{host}[:{port}]/{path}[?file={path}]",
    Scheme.LOCAL: "local:///{absolute path}[?file={path}]",
    Scheme.PATH: "/{absolute path}",
    Scheme.MANIFEST: "manifest://{64 hexadecimal digits}[?file={path}]",
}
DEFAULT_REVISIONS = {Scheme.HF: "main", Scheme.MODELSCOPE: "master"}

_SEPARATOR = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+/-]*")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", re.IGNORECASE)
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CONTAINER = re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*|\$root|\$web")
_HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_USERINFO = re.compile(r"//[^/@]*@")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_KEEP = "/-._~!$'()*+,;=@:"  # characters that no form gives a meaning to; the colon only where revisions exist


class InvalidModelUri(UsageError):
    """The text is not one of the accepted forms."""


@dataclass(frozen=True, slots=True)
class ModelUri:
    """A model's location, or one file's.

    ``location`` is decoded and has no scheme: ``org/model``, ``bucket/prefix``, ``account/container/prefix``,
    ``host:port/path`` or an absolute path.
    ``revision`` is what the text named, or None where it named none (see :attr:`effective_revision`).
    ``file`` is a relative path below the location, or None for the model as a whole.
    """

    scheme: Scheme
    location: str
    revision: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelUri:
        """The location that ``text`` names; raises :class:`InvalidModelUri` with the accepted forms."""
        if not text or _CONTROL.search(text) or not _is_unicode(text):
            raise _refused(text, "it is empty, or holds a control character or bytes that are not UTF-8")
        if text.startswith("/"):
            return cls(Scheme.PATH, _absolute_path(text, text))
        split = _SEPARATOR.fullmatch(text)
        if not split:
            raise _refused(text, "it has no scheme and is no absolute path")
        scheme = _scheme(text, split[1])
        body, file = _split_query(text, split[2])
        location, revision = _PARSERS[scheme](text, scheme, body)
        return cls(scheme, location, revision, file)

    def __str__(self) -> str:
        if self.scheme is Scheme.PATH:
            return self.location
        revision = f":{self.revision}" if self.revision else ""
        query = f"?file={quote(self.file, safe=_KEEP)}" if self.file else ""
        keep = _KEEP + "&[]" if self.scheme in (Scheme.HTTP, Scheme.HTTPS) else _KEEP + "&"
        return f"{self.scheme}://{quote(self.location, safe=keep)}{revision}{query}"

    @property
    def effective_revision(self) -> str | None:
        """The revision named, else the scheme's default, else None where the scheme has no revisions."""
        return self.revision or DEFAULT_REVISIONS.get(self.scheme)

    @property
    def model(self) -> ModelUri:
        """The model as a whole: this URI without ``?file=``."""
        return replace(self, file=None)

    def with_file(self, path: str) -> ModelUri:
        """The URI of one file of the model. A bare path becomes ``local://``, the form of manifests."""
        scheme = Scheme.LOCAL if self.scheme is Scheme.PATH else self.scheme
        return replace(self, scheme=scheme, file=path)

    def with_revision(self, revision: str) -> ModelUri:
        """The same model at another revision."""
        return replace(self, revision=revision)

    @property
    def served_name(self) -> str:
        """The name the API uses when none is set: no scheme, no ``:<revision>``, any other ``:`` as ``-``.

        A local path stays a path.
        """
        return self.location.replace(":", "-") if self.scheme is not Scheme.PATH else self.location


def _refused(text: str, why: str, scheme: Scheme | None = None, hint: str | None = None) -> InvalidModelUri:
    forms = [FORMS[scheme]] if scheme else [FORMS[each] for each in FORMS if each is not Scheme.MANIFEST]
    accepted = "accepted form: " if scheme else "accepted forms:\n  "
    guess = hint or (f"did you mean hf://{text}?\n" if re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w./-]+)?", text) else "")
    shown = _USERINFO.sub("//***@", text)
    return InvalidModelUri(f"not a model location: {shown!r}: {why}", remedy=guess + accepted + "\n  ".join(forms))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _scheme(text: str, name: str) -> Scheme:
    try:
        scheme = Scheme(name.lower())
    except ValueError:
        hint = f"a local directory is written local://{text[7:]}\n" if name.lower() == "file" else None
        raise _refused(text, f"the scheme {name!r} is unknown", hint=hint) from None
    if scheme is Scheme.PATH:
        raise _refused(text, "the scheme 'path' is unknown")
    return scheme


def _split_query(text: str, rest: str) -> tuple[str, str | None]:
    body, mark, query = rest.partition("?")
    if not mark:
        return body, None
    key, _, value = query.partition("=")
    if key != "file" or "&" in value:
        raise _refused(text, "after '?' only file={path} is understood (write '&' in a name as %26)")
    return body, _relative_path(text, _decode(text, value))


def _decode(text: str, part: str) -> str:
    if _BAD_ESCAPE.search(part):
        raise _refused(text, "a '%' is not followed by two hexadecimal digits (write '%' itself as %25)")
    try:
        decoded = unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise _refused(text, "its percent-encoding is not UTF-8") from None
    if _CONTROL.search(decoded):
        raise _refused(text, "it encodes a control character")
    return decoded


def _relative_path(text: str, path: str) -> str:
    parts = path.split("/")
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise _refused(text, f"file={path!r} is not a plain relative path")
    return path


def _absolute_path(text: str, path: str) -> str:
    if not path.startswith("/"):
        raise _refused(text, "the path is not absolute", Scheme.LOCAL, hint="write three slashes before it\n")
    if ".." in PurePosixPath(path).parts:
        raise _refused(text, "the path holds '..'", Scheme.LOCAL)
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def _parse_hub(text: str, scheme: Scheme, body: str) -> tuple[str, str | None]:
    return _parse_named(text, scheme, body, segments=(2,))


def _parse_ngc(text: str, scheme: Scheme, body: str) -> tuple[str, str | None]:
    location, version = _parse_named(text, scheme, body, segments=(2, 3))
    if version is None:
        raise _refused(text, "NGC needs a version after ':'", scheme)
    return location, version


def _parse_named(text: str, scheme: Scheme, body: str, *, segments: tuple[int, ...]) -> tuple[str, str | None]:
    name, colon, revision = _decode(text, body).partition(":")
    parts = name.split("/")
    if len(parts) not in segments or not all(_NAME.fullmatch(part) for part in parts):
        raise _refused(text, f"{name!r} is not {' or '.join(map(str, segments))} names joined by '/'", scheme)
    if not colon:
        return name, None
    if not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision or revision.endswith("/"):
        raise _refused(text, f"{revision!r} is not a revision", scheme)
    return name, revision


def _parse_bucket(text: str, scheme: Scheme, body: str) -> tuple[str, str | None]:
    bucket, _, prefix = _decode(text, body).partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise _refused(text, f"{bucket!r} is not a bucket name", scheme)
    _check_prefix(text, scheme, prefix)
    return f"{bucket}/{prefix}".rstrip("/"), None


def _parse_container(text: str, scheme: Scheme, body: str) -> tuple[str, str | None]:
    account, _, rest = _decode(text, body).partition("/")
    container, _, prefix = rest.partition("/")
    if not _ACCOUNT.fullmatch(account):
        raise _refused(text, f"{account!r} is not a storage account: 3 to 24 lowercase letters and digits", scheme)
    if not _CONTAINER.fullmatch(container):
        raise _refused(text, f"{container!r} is not a container name", scheme)
    _check_prefix(text, scheme, prefix)
    return f"{account}/{container}/{prefix}".rstrip("/"), None


def _check_prefix(text: str, scheme: Scheme, prefix: str) -> None:
    if any(part in ("", ".", "..") for part in prefix.rstrip("/").split("/")) and prefix.rstrip("/"):
        raise _refused(text, f"the prefix {prefix!r} holds an empty, '.' or '..' part", scheme)


def _parse_server(text: str, scheme: Scheme, body: str) -> tuple[str, str | None]:
    host, slash, path = body.partition("/")
    if "@" in host:
        raise _refused(text, "credentials do not belong into a URL", scheme)
    if not _HOST.fullmatch(host):
        raise _refused(text, f"{host!r} is not a host", scheme)
    return (host + slash + _decode(text, path)).rstrip("/"), None


def _parse_local(text: str, _scheme: Scheme, body: str) -> tuple[str, str | None]:
    return _absolute_path(text, _decode(text, body)), None


def _parse_manifest(text: str, scheme: Scheme, body: str) -> tuple[str, str | None]:
    if not _DIGEST.fullmatch(body):
        raise _refused(text, f"{body!r} is not 64 lowercase hexadecimal digits", scheme)
    return body, None


_PARSERS = {
    Scheme.HF: _parse_hub,
    Scheme.MODELSCOPE: _parse_hub,
    Scheme.NGC: _parse_ngc,
    Scheme.S3: _parse_bucket,
    Scheme.GS: _parse_bucket,
    Scheme.AZ: _parse_container,
    Scheme.HTTP: _parse_server,
    Scheme.HTTPS: _parse_server,
    Scheme.LOCAL: _parse_local,
    Scheme.MANIFEST: _parse_manifest,
}
