"""Stand-ins that the sources' tests need besides the hub: a scripted server, a proxy, a TLS front, a clock."""

import socket
import ssl
import traceback
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from lading.errors import LadingError
from lading.events import Event
from lading.sources.fault import Limits
from lading.sources.http import HttpClient, Network
from tests.simulators.server import Call, FaultyServer, Reply

TLS = Path(__file__).parent / "tls"
AUTHORITY = TLS / "ca.pem"


class ScriptedServer(FaultyServer):
    """A server whose answers a function gives."""

    def __init__(self, script: Callable[[Call], Reply]) -> None:
        self._script = script
        super().__init__()

    def answer(self, call: Call) -> Reply:
        return self._script(call)


def replies(*each: Reply) -> Callable[[Call], Reply]:
    """A script that gives these replies in order, and the last for ever."""
    left = list(each)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def redirect(url: str, status: int = 302) -> Reply:
    return Reply(status, {"Location": url}, b"this way")


class FakeTime:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def clock(self) -> float:
        return self.now


def client_with(
    network: Network | None = None, *, time: FakeTime | None = None, report: Callable[[Event], None] = lambda _: None
) -> HttpClient:
    """A client that never really sleeps, and waits two seconds at most for a byte."""
    time = time or FakeTime()
    network = network or Network(limits=Limits(read_seconds=2.0, connect_seconds=2.0))
    return HttpClient(network, report=report, sleep=time.sleep, clock=time.clock, jitter=lambda: 1.0)


def assert_hidden(error: BaseException, *secrets: str) -> None:
    """Nobody who prints the error, its remedy, or one of the errors that led to it, sees a secret."""
    shown: list[str] = []
    chain: BaseException | None = error
    while chain is not None:
        shown += [str(chain), repr(chain), *traceback.format_exception_only(chain)]
        shown.append((chain.remedy or "") if isinstance(chain, LadingError) else "")
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    for secret in secrets:
        assert not [text for text in shown if secret in text]


class _Listener:
    """A threaded TCP server on a free port of 127.0.0.1, from construction to the end of its ``with`` block.

    ``connections`` counts those it accepted.
    """

    def __init__(self, handler: Callable[[socket.socket], None]) -> None:
        listener = self
        self.connections = 0

        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                listener.connections += 1
                with suppress(OSError):
                    handler(self.connection)

        self._server = ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class TlsFront(_Listener):
    """Ends TLS in front of a plain server, with the test authority's certificate for 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(TLS / "server.pem")
        self._target = port
        super().__init__(self._relay)
        self.endpoint = f"https://127.0.0.1:{self.port}"

    def _relay(self, connection: socket.socket) -> None:
        with (
            self._context.wrap_socket(connection, server_side=True) as inside,
            socket.create_connection(("127.0.0.1", self._target)) as outside,
        ):
            _pump(inside, outside)


class ForwardProxy(_Listener):
    """An HTTP proxy: forwards plain requests, tunnels CONNECT, wants ``credentials`` where given.

    ``heads`` are the request heads it got. ``refusal`` is the status it answers instead of forwarding, if any.
    """

    def __init__(self, credentials: str | None = None, refusal: int | None = None) -> None:
        self.heads: list[bytes] = []
        self._wanted = f"Basic {b64encode(credentials.encode()).decode()}" if credentials else None
        self._refusal = refusal
        super().__init__(self._serve)
        self.url = f"http://127.0.0.1:{self.port}"

    def url_with(self, userinfo: str) -> str:
        return f"http://{userinfo}@127.0.0.1:{self.port}"

    @property
    def first_lines(self) -> list[str]:
        return [head.split(b"\r\n")[0].decode() for head in self.heads]

    def _serve(self, connection: socket.socket) -> None:
        head, body = _read_head(connection)
        if not head:
            return
        self.heads.append(head)
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        method, target, _ = lines[0].split(" ")
        if self._wanted and headers.get("proxy-authorization") != self._wanted:
            _answer(connection, "407 Proxy Authentication Required")
        elif self._refusal:
            _answer(connection, f"{self._refusal} No")
        elif method == "CONNECT":
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port))) as outside:
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                _pump(connection, outside)
        else:
            self._forward(connection, lines, headers, target, body)

    def _forward(
        self, connection: socket.socket, lines: list[str], headers: Mapping[str, str], target: str, body: bytes
    ) -> None:
        url = urlsplit(target)
        path = f"{url.path or '/'}{'?' if url.query else ''}{url.query}"
        kept = [line for line in lines[1:] if line and not line.lower().startswith(("proxy-", "connection:"))]
        head = "\r\n".join([f"GET {path} HTTP/1.1", *kept, "Connection: close", "", ""])
        with socket.create_connection((url.hostname or "", url.port or 80)) as outside:
            outside.sendall(head.encode("latin-1") + body)
            head_back, body_back = _read_head(outside)
            connection.sendall(head_back + b"\r\nConnection: close\r\n\r\n" + body_back)
            _copy(outside, connection)


def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b"", b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def _answer(connection: socket.socket, status: str) -> None:
    connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())


def _pump(here: socket.socket, there: socket.socket) -> None:
    back = Thread(target=_copy, args=(there, here), daemon=True)
    back.start()
    _copy(here, there)
    back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
