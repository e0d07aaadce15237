"""What a URL tells before it is asked: its origin, how it may be shown, which headers may follow a redirect to it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from lading.errors import SourceProtocolError, UsageError

_PORTS = {"http": 80, "https": 443}
_HARMLESS_HEADERS = {"accept", "accept-encoding", "range", "user-agent"}


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an http or https URL: what one set of credentials is for. ValueError for others."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("not an http or https URL")
    return parts.scheme, parts.hostname.rstrip("."), parts.port or _PORTS[parts.scheme]


def endpoint_origin(endpoint: str, setting: str, credential: str) -> tuple[str, str, int]:
    """The origin of the endpoint in ``setting``; UsageError where it has none, or holds what ``credential`` is for."""
    try:
        found = origin(endpoint)
    except ValueError:
        raise UsageError(
            f"{setting} is not the URL of a hub", remedy=f"set {setting} to https://host, or unset it"
        ) from None
    if "@" in urlsplit(endpoint).netloc:
        raise UsageError(f"{setting} holds credentials", remedy=f"set {setting} without them, and {credential}")
    return found


def is_http_url(url: str) -> bool:
    """Whether the URL has an :func:`origin`."""
    try:
        origin(url)
    except ValueError:
        return False
    return True


def redacted(url: str) -> str:
    """The URL as it may be shown: no userinfo, and ``?…`` for a query."""
    if not is_http_url(url):
        return "(a malformed URL)"
    parts = urlsplit(url)
    scheme, host, port = origin(url)
    shown = f"[{host}]" if ":" in host else host
    shown_port = "" if port == _PORTS[scheme] else f":{port}"
    return f"{scheme}://{shown}{shown_port}{parts.path}{'?…' if parts.query else ''}"


def headers_after_redirect(headers: Mapping[str, str], here: str, target: str) -> dict[str, str]:
    """The headers that may go to ``target``: all within one origin, else harmless ones only.

    Raises SourceProtocolError when the target is no http or https URL, or http where we were on https.
    """
    if not is_http_url(target):
        raise SourceProtocolError(f"{redacted(here)} redirects to something that is no http or https URL")
    before, after = origin(here), origin(target)
    if before == after:
        return dict(headers)
    if before[0] == "https" and after[0] == "http":
        raise SourceProtocolError(f"{redacted(here)} redirects from https to http: {redacted(target)}")
    return {name: value for name, value in headers.items() if name.lower() in _HARMLESS_HEADERS}
