"""Which proxy, if any, a URL goes through: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` as values.

Pure. urllib3 reads no proxy variable itself, so these are the rules for every source. A ``NO_PROXY`` entry is a name
(``corp.test`` and ``.corp.test`` both mean the name and all names below it), an address, a network in CIDR form, any of
the first two with ``:port``, or ``*``; entries are joined by commas or spaces, and case does not matter. A network
matches addresses only: names are never resolved here. A proxy's password never leaves :class:`~lading.secret.Secret`.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import unquote_to_bytes, urlsplit

from lading.errors import UsageError
from lading.secret import Secret

_DEFAULT_PORTS = {"http": 80, "https": 443}
_VARIABLES = {"http": "HTTP_PROXY", "https": "HTTPS_PROXY"}


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxy settings as they were set: proxy URLs for ``http://``, for ``https://``, for both; the exceptions."""

    http: Secret | None = None
    https: Secret | None = None
    everything: Secret | None = None
    no_proxy: str = ""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy: ``url`` is ``scheme://host:port``; ``authorization`` the value of ``Proxy-Authorization``, or None.

    ``setting`` is the variable that it was read from, "" where it was made otherwise.
    """

    url: str
    authorization: Secret | None = None
    setting: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """The proxy that ``[http[s]://][user[:password]@]host[:port]`` names; ValueError for anything else."""
        text = text.strip()
        parts = urlsplit(text if "://" in text else f"http://{text}")
        scheme, host = parts.scheme.lower(), parts.hostname
        if scheme not in _DEFAULT_PORTS or not host or any(char.isspace() for char in text):
            raise ValueError("not a proxy URL")
        port = parts.port or _DEFAULT_PORTS[scheme]
        authorization = None
        if parts.username is not None:
            pair = unquote_to_bytes(parts.username) + b":" + unquote_to_bytes(parts.password or "")
            authorization = Secret(f"Basic {b64encode(pair).decode()}")
        return cls(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}", authorization)

    @property
    def headers(self) -> dict[str, str]:
        """What the proxy itself is sent: ``Proxy-Authorization``, in clear, where it wants one."""
        return {"Proxy-Authorization": self.authorization.reveal()} if self.authorization else {}


def proxy_for(url: str, proxies: Proxies) -> Proxy | None:
    """The proxy that ``url`` goes through, or None for a direct connection.

    Raises UsageError, without showing the URL, when the proxy that would be used is not an http or https one.
    """
    parts = urlsplit(url)
    named = proxies.https if parts.scheme == "https" else proxies.http
    chosen = named or proxies.everything
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    if not chosen or bypasses_proxy(parts.hostname or "", port, proxies.no_proxy):
        return None
    try:
        return replace(Proxy.parse(chosen.reveal()), setting=chosen.name)
    except ValueError:
        name = _VARIABLES.get(parts.scheme, "HTTP_PROXY") if named else "ALL_PROXY"
        raise UsageError(
            f"{name} is not a proxy that Lading can use",
            remedy=f"set {name} to http://[user:password@]host:port, or unset it",
        ) from None


def bypasses_proxy(host: str, port: int, no_proxy: str) -> bool:
    """Whether ``NO_PROXY`` has an entry for ``host`` at ``port``."""
    host = host.lower().strip("[]").rstrip(".")
    entries = no_proxy.lower().replace(",", " ").split()
    return any(_matches(entry, host, port) for entry in entries)


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        return _is_within(host, entry)
    name, only_port = _split_port(entry)
    if only_port is not None and only_port != str(port):
        return False
    address, other = _address(host), _address(name)
    if address and other:
        return address == other
    suffix = name.removeprefix("*").strip(".")
    return bool(suffix) and not address and (host == suffix or host.endswith(f".{suffix}"))


def _split_port(entry: str) -> tuple[str, str | None]:
    """The entry without brackets, and the port it names; a bare IPv6 address has colons but no port."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, rest[1:] if rest.startswith(":") else None
    name, colon, port = entry.rpartition(":")
    return (name, port) if colon and ":" not in name else (entry, None)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _is_within(host: str, network: str) -> bool:
    address = _address(host)
    try:
        return address is not None and address in ip_network(network, strict=False)
    except ValueError:
        return False
