"""Real forward proxies on free ports of 127.0.0.1: squid, tinyproxy that wants credentials, mitmproxy that reads TLS.

Each logs every request as it comes, but squid, which logs them when they end: tunnels when they are closed. Everything
that they write lies in a temporary directory.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.simulators.programs import required, serving

USER = "us@er"
PASSWORD = "p:a/s%s?w&=ö#x @"
_PASSWORD_FILE = "us@er:$apr1$lading00$put8xTg6Ba75glXxWwGND0\n"  # openssl passwd -apr1 -salt lading00
_NCSA_HELPERS = ("/usr/lib/squid", "/usr/lib64/squid", "/usr/libexec/squid")


@dataclass(frozen=True)
class RealProxy:
    """A running proxy. ``request`` finds the requests in its log, from their methods on."""

    port: int
    directory: Path
    request: re.Pattern[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url_with(self, user: str, password: str) -> str:
        """The URL with credentials, every character of theirs that is not harmless percent-encoded."""
        return f"http://{quote(user, safe='')}:{quote(password, safe='')}@127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        path = self.directory / "access.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def requests(self) -> list[str]:
        """``METHOD TARGET``, and what else the proxy logs of each request."""
        return self.request.findall(self.log)


@contextmanager
def squid(*, parents: Mapping[str, int] | None = None, with_credentials: bool = False) -> Iterator[RealProxy]:
    """squid, which logs ``METHOD TARGET HEADERS``, the headers percent-encoded.

    ``parents`` are the ports of proxies on 127.0.0.1 that alone lead to the hosts with these names. ``with_credentials``:
    only for ``USER`` with ``PASSWORD``.
    """
    program = required("squid")
    with _directory() as directory:
        configuration = directory / "squid.conf"
        lines = [
            "pid_filename none",
            "cache deny all",
            f"cache_log {directory}/cache.log",
            f"coredump_dir {directory}",
            "netdb_filename none",
            "pinger_enable off",
            "shutdown_lifetime 0 seconds",
            "logformat asked %rm %ru %>ha",
            f"access_log stdio:{directory}/access.log asked",
            "buffered_logs off",
        ]
        for name, port in (parents or {}).items():
            lines += [
                f"acl to_{port} dstdomain {name}",
                f"cache_peer 127.0.0.1 parent {port} 0 no-query no-digest name=parent_{port}",
                f"cache_peer_access parent_{port} allow to_{port}",
                f"never_direct allow to_{port}",
            ]
        if os.geteuid() == 0:  # squid gives up root
            lines.append("cache_effective_user nobody")
        if with_credentials:
            lines += _basic_authentication(directory)
        lines.append("http_access allow all")

        def command(port: int) -> list[str | Path]:
            configuration.write_text("\n".join([f"http_port 127.0.0.1:{port}", *lines, ""]))
            return [program, "-N", "-f", configuration]

        with serving(command, directory) as port:
            yield RealProxy(port, directory, re.compile(r"^[A-Z].*", re.MULTILINE))


def _basic_authentication(directory: Path) -> list[str]:
    helper = shutil.which("basic_ncsa_auth", path=":".join(_NCSA_HELPERS))
    if helper is None:
        pytest.skip("squid has no basic_ncsa_auth")
    passwords = directory / "passwords"
    passwords.write_text(_PASSWORD_FILE)
    return [
        f"auth_param basic program {helper} {passwords}",
        "auth_param basic utf8 on",
        "acl known proxy_auth REQUIRED",
        "http_access deny !known",
    ]


@contextmanager
def tinyproxy(user: str, password: str) -> Iterator[RealProxy]:
    """tinyproxy for one user. Its configuration takes letters, digits, ``-``, ``.`` and ``_`` only."""
    program = required("tinyproxy")
    with _directory() as directory:
        configuration = directory / "tinyproxy.conf"

        def command(port: int) -> list[str | Path]:
            configuration.write_text(
                f"Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 100\nBasicAuth {user} {password}\n"
                f'LogFile "{directory}/access.log"\nLogLevel Connect\n'
            )
            return [program, "-d", "-c", configuration]

        with serving(command, directory) as port:
            yield RealProxy(port, directory, re.compile(r"Request \(file descriptor \d+\): (.*)"))


@dataclass(frozen=True)
class InterceptingProxy(RealProxy):
    """mitmdump: it ends TLS with certificates of its own ``authority``, and logs ``METHOD URL HEADER-NAMES``."""

    @property
    def authority(self) -> Path:
        return self.directory / "mitmproxy-ca-cert.pem"

    def send_to(self, origins: Mapping[str, int]) -> None:
        """Ask these ports of 127.0.0.1, over plain HTTP, in place of the hosts that have these names."""
        (self.directory / "origins.json").write_text(json.dumps(origins))


_ADDON = """
import json, pathlib

HERE = pathlib.Path(__file__).parent

def request(flow):
    asked = flow.request
    with (HERE / "access.log").open("a") as log:
        log.write(f"{asked.method} {asked.url.partition('?')[0]} {' '.join(sorted(n.lower() for n in asked.headers))}\\n")
    port = json.loads((HERE / "origins.json").read_text()).get(asked.host)
    if port:
        asked.scheme, asked.host, asked.port = "http", "127.0.0.1", port
"""


@contextmanager
def mitmdump(upstream_authority: Path) -> Iterator[InterceptingProxy]:
    """mitmdump, which trusts servers that ``upstream_authority`` vouches for."""
    program = required("mitmdump")
    with _directory() as directory:
        (directory / "addon.py").write_text(_ADDON)
        (directory / "origins.json").write_text("{}")

        def command(port: int) -> list[str | Path]:
            settings = {
                "confdir": directory,
                "ssl_verify_upstream_trusted_ca": upstream_authority,
                "connection_strategy": "lazy",  # or it looks for the host before the addon names another
                "upstream_cert": "false",
            }
            options = [text for name, value in settings.items() for text in ("--set", f"{name}={value}")]
            listen = ["--listen-host", "127.0.0.1", "--listen-port", str(port)]
            return [program, "-q", *listen, *options, "-s", directory / "addon.py"]

        with serving(command, directory) as port:
            yield InterceptingProxy(port, directory, re.compile(r"^.+", re.MULTILINE))


@contextmanager
def _directory() -> Iterator[Path]:
    """A new directory that the user ``nobody``, whom squid becomes where it was started as root, can write."""
    with tempfile.TemporaryDirectory(prefix="lading-proxy-") as name:
        directory = Path(name)
        if os.geteuid() == 0:
            os.chown(directory, pwd.getpwnam("nobody").pw_uid, -1)
        yield directory
