"""The HTTP client that every networked source shares: proxies, TLS, redirects, time-outs and retries, once.

Three ways in. :meth:`HttpClient.fetch` gets a small body and asks again after passing faults; :meth:`HttpClient.send`
does so for calls that carry a body, such as those to token services. :meth:`HttpClient.open` asks once and streams;
:func:`read_range` checks the answer to a range request, and its caller does the retrying. Rules:

* only a short list of headers, no credential among them, follows a redirect to another scheme, host or port; https
  never becomes http; five redirects at most;
* offline, no socket is opened;
* what leaves is an error of :mod:`lading.errors`, told apart by exception type and status code; a fault worth another
  try is a :class:`PassingFault`; URLs appear without userinfo and query, where signatures live.
"""

from __future__ import annotations

import json
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urljoin

from lading import __version__
from lading.errors import (
    OfflineError,
    SizeMismatch,
    SourceError,
    SourceProtocolError,
)
from lading.events import Report, RetryScheduled, ignore
from lading.sources.fault import Limits, explain, gave_up, proxy_refused, retry_after_seconds, retry_delay_seconds
from lading.sources.interface import PassingFault, RangeIgnored
from lading.sources.proxy import Proxies, Proxy, proxy_for
from lading.sources.tls import tls_context
from lading.sources.urls import headers_after_redirect, is_http_url, origin, redacted
from lading.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager


_REDIRECTS = {301, 302, 303, 307, 308}
_DISCARD_BYTES = 64 << 10
_OWN_HEADERS = {"User-Agent": f"lading/{__version__}", "Accept-Encoding": "identity"}
_Json = TypeVar("_Json", dict[str, object], list[object])
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,19})-(\d{1,19})|\*)/(?:(\d{1,19})|\*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Network:
    """How this machine reaches sources. ``ca_bundle`` None means the system's authorities."""

    proxies: Proxies = field(default_factory=Proxies)
    ca_bundle: Path | None = None
    offline: bool = False
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Answer:
    """A small answer, read to its end. ``headers`` ignore case; ``url`` is where the last redirect led."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str

    def json(self, kind: type[_Json]) -> _Json:
        """The body as a JSON object or array; ValueError, whose text completes "it answers with …", for another."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            raise ValueError("something that is not JSON") from None
        if not isinstance(value, kind):
            raise ValueError("other JSON")  # noqa: TRY004  # one kind of error for what is wrong with an answer
        return value


class HttpClient:
    """The connections to all sources. Safe to use from several threads; nothing is opened before it is needed."""

    def __init__(
        self,
        network: Network,
        *,
        report: Report = ignore,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._network = network
        self._limits = network.limits
        self._report = report
        self._sleep = sleep
        self._clock = clock
        self._jitter = jitter
        self._pools: dict[Proxy | None, PoolManager] = {}
        self._tls: ssl.SSLContext | None = None
        self._lock = Lock()

    @property
    def offline(self) -> bool:
        """Whether the network is forbidden."""
        return self._network.offline

    def fetch(self, url: str, headers: Mapping[str, str], *, tries: int | None = None) -> Answer:
        """The small answer to a GET, whatever its status; asked for again after passing faults.

        Raises RateLimited when 429 is all that comes, SourceUnreachable after the last try or for a lasting fault,
        SourceProtocolError for a bad redirect or a body over the limit, OfflineError.
        """
        return self._patiently(lambda: self.fetch_once(url, headers), url, tries)

    def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """The small answer to a request of any method that may be made twice; no redirect is followed.

        Raises as :meth:`fetch` does.
        """
        return self._patiently(lambda: self._send_once(method, url, headers, body), url, None)

    def _patiently(self, ask: Callable[[], Answer], url: str, tries: int | None) -> Answer:
        """What ``ask`` gets, asked for again after passing faults."""
        began, tried = self._clock(), 0
        while True:
            tried += 1
            try:
                return ask()
            except PassingFault as fault:
                failing_seconds = self._clock() - began
                delay = retry_delay_seconds(fault, tried, failing_seconds, self._limits, self._jitter())
                if delay is None or tried == tries:
                    raise gave_up(fault, tried) from fault
                self._report(RetryScheduled(redacted(url), fault.message, delay))
            self._sleep(delay)

    def fetch_once(self, url: str, headers: Mapping[str, str]) -> Answer:
        """The small answer to a GET, asked for once: as :meth:`fetch`, but PassingFault for a fault that may pass."""
        with self.open(url, headers) as response:
            return _read_answer(response)

    def _send_once(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        response = self._request(method, url, {**_OWN_HEADERS, **headers}, body)
        try:
            return _read_answer(response)
        finally:
            response.close()

    @contextmanager
    def open(self, url: str, headers: Mapping[str, str]) -> Iterator[Response]:
        """The answer to one GET, whatever its status, its body still on the wire.

        Raises PassingFault, another SourceUnreachable for a lasting fault, SourceProtocolError for a bad redirect,
        OfflineError.
        """
        response = self._follow(url, headers)
        try:
            yield response
        finally:
            response.close()

    def close(self) -> None:
        """Close every idle connection. The client stays usable."""
        with self._lock:
            pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.clear()

    def _follow(self, url: str, headers: Mapping[str, str]) -> Response:
        here = url
        headers = {**_OWN_HEADERS, **headers}
        for _ in range(self._limits.redirects + 1):
            response = self._request("GET", here, headers)
            target = response.redirect
            if target is None:
                return response
            response.discard()
            headers = headers_after_redirect(headers, here, target)
            here = target
        raise SourceProtocolError(f"{redacted(url)} redirects more than {self._limits.redirects} times")

    def _request(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Response:
        if self._network.offline:
            raise OfflineError(
                f"{redacted(url)} needs the network, which is forbidden",
                remedy="unset LADING_OFFLINE and HF_HUB_OFFLINE",
            )
        from urllib3.exceptions import HTTPError, LocationValueError

        if not is_http_url(url):
            raise SourceProtocolError(f"not a URL of a source: {redacted(url)}")
        proxy = proxy_for(url, self._network.proxies)
        try:
            raw = self._pool(proxy).urlopen(
                method,
                url,
                body=body,
                headers=headers,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
            )
        except (LocationValueError, UnicodeError):
            raise SourceProtocolError(f"not a URL of a source: {redacted(url)}") from None
        except (HTTPError, OSError) as error:
            raise self._explained(error, url, proxy) from error
        if raw.status == 407 and proxy:
            raw.close()
            raise proxy_refused(proxy, url, raw.status)
        return Response(raw, url, self._limits, self._clock)

    def _pool(self, proxy: Proxy | None) -> PoolManager:
        from urllib3 import PoolManager, ProxyManager, Timeout

        with self._lock:
            if proxy in self._pools:
                return self._pools[proxy]
            tls = self._tls = self._tls or tls_context(self._network.ca_bundle)
            timeout = Timeout(connect=self._limits.connect_seconds, read=self._limits.read_seconds)
            per_host = self._limits.connections_per_host
            if proxy is None:
                pool = PoolManager(timeout=timeout, maxsize=per_host, ssl_context=tls)
            else:
                pool = ProxyManager(
                    proxy.url,
                    proxy_headers=proxy.headers,
                    proxy_ssl_context=tls,
                    timeout=timeout,
                    maxsize=per_host,
                    ssl_context=tls,
                )
            return self._pools.setdefault(proxy, pool)

    def _explained(self, error: Exception, url: str, proxy: Proxy | None) -> SourceError:
        from urllib3.exceptions import ProxyError

        # urllib3 and http.client report a CONNECT answered with another status than 200 as an OSError that has that
        # status in its text alone. Asking once more tells it in a field.
        if proxy and isinstance(error, ProxyError) and type(error.original_error) is OSError:
            return proxy_refused(proxy, url, self._status_of_connect(proxy, url))
        return explain(error, url, proxy, self._limits)

    def _status_of_connect(self, proxy: Proxy, url: str) -> int | None:
        _, host, port = origin(url)
        _, proxy_host, proxy_port = origin(proxy.url)
        connection = (
            HTTPSConnection(proxy_host, proxy_port, timeout=self._limits.connect_seconds, context=self._tls)
            if proxy.url.startswith("https:")
            else HTTPConnection(proxy_host, proxy_port, timeout=self._limits.connect_seconds)
        )
        try:
            target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            connection.request("CONNECT", target, headers={"Host": target, **proxy.headers})
            return connection.getresponse().status
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()


class Response:
    """An answer whose body is still on the wire. Used by one thread at a time; :meth:`HttpClient.open` closes it."""

    def __init__(self, raw: BaseHTTPResponse, url: str, limits: Limits, clock: Callable[[], float]) -> None:
        self.status: int = raw.status
        self.headers: Mapping[str, str] = raw.headers
        self.url = url
        self._raw = raw
        self._limits = limits
        self._clock = clock

    @property
    def redirect(self) -> str | None:
        """Where this answer sends us, or None. An absolute URL, or what was sent where that makes none."""
        location = self.headers.get("Location")
        if self.status not in _REDIRECTS or not location:
            return None
        try:
            return urljoin(self.url, location)
        except ValueError:
            return location

    def raise_if_passing(self) -> None:
        """Raise PassingFault for the statuses that another try may not meet: 408, 429 and 5xx."""
        if self.status not in (408, 429) and self.status < 500:
            return
        wait = retry_after_seconds(self.headers, self._clock())
        asks = "" if wait is None else f" and asks to wait {format_seconds(wait)}"
        raise PassingFault(
            f"{redacted(self.url)} answers HTTP {self.status}{asks}", retry_after_seconds=wait, status=self.status
        )

    def readinto(self, buffer: memoryview) -> int:
        """Fill the start of ``buffer`` with the next bytes as they are on the wire; how many, 0 at the body's end."""
        with self._faults_explained():
            return self._raw.readinto(buffer[: self._limits.slice_bytes])

    def read_all(self) -> bytes:
        """The whole body, decoded where the server encoded it unasked; SourceProtocolError when over the limit."""
        body = bytearray()
        with self._faults_explained():
            while piece := self._raw.read(self._limits.slice_bytes, decode_content=True):
                body += piece
                if len(body) > self._limits.body_bytes:
                    limit = format_bytes(self._limits.body_bytes)
                    raise SourceProtocolError(f"{redacted(self.url)} answers with more than {limit}")
        return bytes(body)

    def discard(self) -> None:
        """Be done with an answer whose body does not matter; a short body is read, to keep the connection."""
        length = _count(self.headers.get("Content-Length"))
        if length is not None and length <= _DISCARD_BYTES:
            self._raw.drain_conn()
        self.close()

    def close(self) -> None:
        """Give the connection back; it is closed unless the body was read to its end."""
        self._raw.close()
        self._raw.release_conn()

    @contextmanager
    def _faults_explained(self) -> Iterator[None]:
        from urllib3.exceptions import HTTPError

        try:
            yield
        except (HTTPError, OSError) as error:
            raise explain(error, self.url, None, self._limits) from error


class RangeBody:
    """The bytes of a range whose answer was checked: see :class:`~lading.sources.interface.RangeReader`."""

    def __init__(self, response: Response, size_bytes: int) -> None:
        self._response = response
        self._left = size_bytes

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the start of ``buffer`` and return how many; PassingFault when the body ends before the range."""
        buffer = buffer[: self._left]
        if not buffer:
            return 0
        filled = self._response.readinto(buffer)
        if filled == 0:
            raise PassingFault(f"{redacted(self._response.url)} ended {self._left} bytes early")
        self._left -= filled
        return filled


def _read_answer(response: Response) -> Answer:
    response.raise_if_passing()
    return Answer(response.status, response.headers, response.read_all(), response.url)


def range_header(start: int, end: int) -> dict[str, str]:
    """The header that asks for the bytes ``start`` (included) to ``end`` (excluded), of which there must be some."""
    return {"Range": f"bytes={start}-{end - 1}"}


def read_range(response: Response, start: int, end: int, size_bytes: int) -> RangeBody:
    """The body of the answer to :func:`range_header`, where the file was listed with ``size_bytes``.

    206 must name exactly the range asked for. 200 is read up to ``end`` when ``start`` is 0. Raises RangeIgnored for
    any other 200, SizeMismatch when the answer tells another size, SourceProtocolError for any other answer.
    """
    where = redacted(response.url)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise SourceProtocolError(f"{where} answers with encoded bytes where the file's own were asked for")
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    first, last, total = (_count(group) for group in found.groups()) if found else (None, None, None)
    match response.status:
        case 206 | 416 if total is not None and total != size_bytes:
            raise _other_size(where, total, size_bytes)
        case 206 if (first, last) == (start, end - 1):
            return RangeBody(response, end - start)
        case 206:
            answered = response.headers.get("Content-Range", "no Content-Range")
            raise SourceProtocolError(f"{where}: asked for bytes {start}-{end - 1}, answered {answered[:80]!r}")
        case 200:
            length = _count(response.headers.get("Content-Length"))
            if length is not None and length != size_bytes:
                raise _other_size(where, length, size_bytes)
            if start:
                raise RangeIgnored(f"{where} ignores byte ranges")
            return RangeBody(response, end)
    raise SourceProtocolError(f"{where} answers a range request with HTTP {response.status}")


def file_bytes(response: Response | Answer) -> int | None:
    """The size of the whole file, as the answer to a request for all or a range of it tells; None where it does not."""
    if response.status == 200:
        return _count(response.headers.get("Content-Length"))
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    return _count(found[3]) if found and response.status in (206, 416) else None


def _count(text: str | None) -> int | None:
    """The number that a header field says; None where it says none, or one that no file has."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 20 else None


def _other_size(where: str, size_bytes: int, listed_bytes: int) -> SizeMismatch:
    return SizeMismatch(
        f"{where} has {size_bytes} bytes, {listed_bytes} were listed", remedy="list the model's files again (--refresh)"
    )
