"""The HTTP client that every networked source shares: proxies, TLS, redirects, time-outs and retries, once.

Three ways in. :meth:`HttpClient.fetch` gets a small body and asks again after passing faults; :meth:`HttpClient.send`
does so for calls that carry a body, such as those to token services. :meth:`HttpClient.open` asks once and streams;
:func:`read_range` checks the answer to a range request, and its caller does the retrying; so it is for uploads, with
:meth:`HttpClient.send_once`. Rules:

* only a short list of headers, no credential among them, follows a redirect to another scheme, host or port; https
  never becomes http; five redirects at most;
* offline, no socket is opened;
* what leaves is an error of :mod:`lading.errors`, told apart by exception type and status code; a fault worth another
  try is a :class:`PassingFault`; URLs appear without userinfo and query, where signatures live.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from lading import __version__
from lading.errors import (
    OfflineError,
    SourceError,
    SourceProtocolError,
)
from lading.events import Report, RetryScheduled, ignore
from lading.sources.answer import Answer, Response, range_header
from lading.sources.fault import Limits, explain, gave_up, proxy_refused, retry_delay_seconds
from lading.sources.interface import PassingFault
from lading.sources.proxy import Proxies, Proxy, proxy_for
from lading.sources.tls import tls_context
from lading.sources.urls import headers_after_redirect, is_http_url, origin, redacted

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager


_OWN_HEADERS = {"User-Agent": f"lading/{__version__}", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Network:
    """How this machine reaches sources. ``ca_bundle`` None means the system's authorities."""

    proxies: Proxies = field(default_factory=Proxies)
    ca_bundle: Path | None = None
    offline: bool = False
    limits: Limits = field(default_factory=Limits)


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

    def peek(self, url: str, headers: Mapping[str, str]) -> Answer:
        """The answer to a GET of the first byte, without its body: what :func:`file_bytes` and etags are read from.

        Asked for again after passing faults, and raises, as :meth:`fetch`.
        """
        return self._patiently(lambda: self._peek_once(url, {**headers, **range_header(0, 1)}), url, None)

    def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """The small answer to a request of any method that may be made twice; no redirect is followed.

        Raises as :meth:`fetch` does.
        """
        return self._patiently(lambda: self.send_once(method, url, headers, body), url, None)

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

    def _peek_once(self, url: str, headers: Mapping[str, str]) -> Answer:
        with self.open(url, headers) as response:
            response.raise_if_passing()
            return Answer(response.status, response.headers, b"", response.url)

    def send_once(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | Iterable[memoryview] | None = None
    ) -> Answer:
        """The same, asked for once: PassingFault for a fault that may pass.

        A body in pieces goes out piece by piece, so that a slow line is waited for piece by piece too; its length has
        to be among the headers.
        """
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

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | Iterable[memoryview] | None = None
    ) -> Response:
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
        if proxy and _is_refusal_of_proxy(raw, url):
            raw.close()
            raise proxy_refused(proxy, url, raw.status)
        return Response(raw, url, self._limits, self._clock)

    def _pool(self, proxy: Proxy | None) -> PoolManager:
        from urllib3 import PoolManager, ProxyManager, Timeout

        from lading.sources.connections import POOLS

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
            pool.pool_classes_by_scheme = POOLS
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


def _is_refusal_of_proxy(raw: BaseHTTPResponse, url: str) -> bool:
    """Whether the proxy wants other credentials. tinyproxy says 401 to wrong ones, as if it were the source."""
    if raw.status == 401 and url.startswith("http:"):
        return str(raw.headers.get("Server", "")).startswith("tinyproxy/")
    return raw.status == 407


def _read_answer(response: Response) -> Answer:
    response.raise_if_passing()
    return Answer(response.status, response.headers, response.read_all(), response.url)
