"""What went wrong on the way to a source, told by exception type and status, and when it is worth asking again."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from lading.errors import RateLimited, SourceError, SourceProtocolError, SourceUnreachable
from lading.sources.interface import PassingFault
from lading.sources.proxy import Proxy
from lading.sources.urls import origin, redacted
from lading.units import MIB, format_seconds

_RATE_LIMIT = re.compile(r";\s*r=0\s*;\s*t=(\d{1,9})\b", re.ASCII)
_TRUST_REMEDY = "if a proxy inspects TLS here, set SSL_CERT_FILE to a PEM file that holds its authority"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, how often to ask again, how much to accept."""

    connect_seconds: float = 10.0
    read_seconds: float = 60.0  # without one byte
    tries: int = 5
    first_delay_seconds: float = 0.5
    longest_delay_seconds: float = 20.0
    patience_seconds: float = 90.0  # of failing, after which only a wait that the server asked for is made
    longest_retry_after_seconds: float = 300.0
    redirects: int = 5
    body_bytes: int = 64 * MIB
    slice_bytes: int = MIB  # one read of a streamed body: as fast as a larger one, and shows progress
    connections_per_host: int = 32


def retry_after_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """How long the server asks to be left alone, or None: ``Retry-After``, else an exhausted ``RateLimit``."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    if text:
        with suppress(ValueError, OverflowError):
            when = parsedate_to_datetime(text)
            return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now)
    found = _RATE_LIMIT.search(headers.get("RateLimit", ""))
    return float(found[1]) if found else None


def retry_delay_seconds(
    fault: PassingFault, tried: int, failing_seconds: float, limits: Limits, jitter: float
) -> float | None:
    """How long to wait before asking again after ``tried`` tries, or None to give up.

    What the server asked for where it did, else exponential with full jitter (``jitter`` is in 0..1).
    """
    if tried >= limits.tries:
        return None
    if fault.retry_after_seconds is not None:
        return fault.retry_after_seconds if fault.retry_after_seconds <= limits.longest_retry_after_seconds else None
    if failing_seconds > limits.patience_seconds:
        return None
    return jitter * min(limits.longest_delay_seconds, limits.first_delay_seconds * 2.0 ** (tried - 1))


def explain(error: Exception, url: str, proxy: Proxy | None, limits: Limits) -> SourceError:
    """What went wrong on the way to ``url``, by the type of the exception: urllib3's, or one from below it."""
    from urllib3 import exceptions as of

    host = urlsplit(url).netloc.rpartition("@")[2]
    if isinstance(error, of.ProxyError) and proxy:
        error, host = error.original_error, f"the proxy {proxy.url}"
    elif proxy:
        host = f"{host} through the proxy {proxy.url}"
    match error:
        case of.NameResolutionError():
            remedy = "check the name and this machine's DNS; where only a proxy gets out, set HTTPS_PROXY"
            return PassingFault(f"{host}: the name cannot be resolved", remedy=remedy)
        case of.NewConnectionError():
            number = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
            why = os.strerror(number).lower() if number else "no connection"
            return PassingFault(f"{host}: {why}", remedy=f"check that {host} is right, up, and reachable from here")
        case of.ConnectTimeoutError():
            why = f"no connection within {format_seconds(limits.connect_seconds)}"
            remedy = (
                f"check that a firewall lets this machine reach {host}; where only a proxy gets out, set HTTPS_PROXY"
            )
            return PassingFault(f"{host}: {why}", remedy=remedy)
        case of.ReadTimeoutError() | TimeoutError():
            return PassingFault(f"{host}: not a byte for {format_seconds(limits.read_seconds)}")
        case of.SSLError():
            return _tls_fault(error.args[0] if error.args else error, host)
        case ssl.SSLError():
            return _tls_fault(error, host)
        case of.DecodeError():
            return SourceProtocolError(f"{redacted(url)} answers with a body that cannot be decoded")
    return PassingFault(f"{host}: the connection broke off")


def _tls_fault(cause: object, host: str) -> SourceUnreachable:
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = f"its certificate is not trusted: {cause.verify_message}"
        return SourceUnreachable(f"{host}: {why}", remedy=_TRUST_REMEDY)
    return PassingFault(f"{host}: TLS failed", remedy=f"check that it speaks https; {_TRUST_REMEDY}")


def proxy_refused(proxy: Proxy, url: str, status: int | None) -> SourceUnreachable:
    """A proxy's answer of ``status`` (None: none came) in place of the way to ``url``."""
    scheme, host, _ = origin(url)
    variable = f"{scheme.upper()}_PROXY"
    if status in (401, 407):  # 401 is what tinyproxy says to wrong ones
        return SourceUnreachable(
            f"the proxy {proxy.url} asks for {'other ' if proxy.authorization else ''}credentials (HTTP {status})",
            remedy=f"write them into {variable}, percent-encoded: http://user:password@host:port",
        )
    if status is None or status < 300 or status in (408, 429) or status >= 500:
        answer = "" if status is None or status < 300 else f" (HTTP {status})"
        return PassingFault(f"the proxy {proxy.url} does not get through to {host}{answer}", status=status)
    return SourceUnreachable(
        f"the proxy {proxy.url} refuses connections to {host} (HTTP {status})",
        remedy=f"allow {host} on the proxy, or add it to NO_PROXY where it can be reached directly",
    )


def gave_up(fault: PassingFault, tried: int) -> SourceError:
    """The lasting error that a passing fault becomes after ``tried`` tries."""
    message = f"{fault.message} ({tried} tries)" if tried > 1 else fault.message
    kind = RateLimited if fault.status == 429 else SourceUnreachable
    return kind(message, remedy=fault.remedy)
