"""Every networked source behind real proxies, configured as users do it: by nothing but the environment.

squid tunnels and forwards, tinyproxy wants credentials, mitmproxy reads TLS with an authority of its own. What passed is
read off the proxies' own logs. A new source is one function here and one line in :data:`STANDS`.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from lading.errors import LadingError, SourceUnreachable
from lading.model.manifest import FileEntry
from lading.settings import Settings
from lading.sources import source_for
from lading.sources.interface import PassingFault, Source
from lading.uri import ModelUri
from tests.program import environment, run
from tests.simulators import proxies
from tests.simulators.azure import ACCOUNT, KEY, TENANT, AzureSimulator
from tests.simulators.google import GoogleSimulator
from tests.simulators.hub import HubSimulator
from tests.simulators.modelscope import ModelScopeSimulator
from tests.simulators.ngc import NgcSimulator
from tests.simulators.proxies import InterceptingProxy, RealProxy
from tests.simulators.s3 import S3Simulator
from tests.simulators.server import FaultyServer
from tests.simulators.web import WebServer
from tests.sources import servers
from tests.sources.servers import TLS, TlsFront, assert_hidden
from tests.supervisor.test_supervisor import eventually

AUTHORITY = TLS / "names-ca.pem"
SECRET = "canaryS3cr3t000000000000"
USER, PASSWORD = "lading", "canary.pass-word_1"
WEIGHTS = "model.safetensors"
DATA = bytes(range(256)) * 40
FILES = {"config.json": b"{}", WEIGHTS: DATA}
NEEDED = {"s3": ("botocore", "s3"), "az": ("azure.identity", "azure")}
BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
NO_METADATA = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1",
    "NO_GCE_CHECK": "true",
    "GCE_METADATA_HOST": "127.0.0.1:1",
}
KEPT = ("PATH", "LANG", "TMPDIR", "XDG_CACHE_HOME", "PYTEST", "COVERAGE", "HYPOTHESIS")
BEHIND_TLS = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


@dataclass(frozen=True)
class Stand:
    """A stand-in that holds one model. ``uri`` and ``environ`` are what a user names it by when it is at an endpoint."""

    server: FaultyServer
    uri: Callable[[str], str]
    environ: Callable[[str], Mapping[str, str]]


def _hf() -> Stand:
    hub = HubSimulator()
    hub.add_model("demo/tiny", FILES, private=True)
    hub.require_token(SECRET)
    return Stand(hub, lambda _: "hf://demo/tiny", lambda at: {"HF_ENDPOINT": at, "HF_TOKEN": SECRET})


def _ngc() -> Stand:
    """With a legacy key, for which a token is fetched first."""
    ngc = NgcSimulator()
    ngc.add_model("acme/lab/tiny", "1.0", FILES)
    ngc.add_key(SECRET, "acme")
    environ = {"NGC_API_KEY": SECRET}
    return Stand(
        ngc,
        lambda _: "ngc://acme/lab/tiny:1.0",
        lambda at: environ | {"NGC_CLI_API_URL": at, "NGC_CLI_AUTH_URL": at},
    )


def _modelscope() -> Stand:
    site = ModelScopeSimulator()
    site.add_model("demo/tiny", FILES, private=True)
    site.require_token(SECRET)
    environ = {"MODELSCOPE_API_TOKEN": SECRET}
    return Stand(site, lambda _: "modelscope://demo/tiny", lambda at: environ | {"MODELSCOPE_ENDPOINT": at})


def _s3() -> Stand:
    s3 = S3Simulator()
    s3.keys = {"AKIATEST": SECRET}
    s3.add("models", {f"org/tiny/{path}": data for path, data in FILES.items()})
    environ = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "key", "AWS_SESSION_TOKEN": SECRET}
    return Stand(s3, lambda _: "s3://models/org/tiny", lambda at: environ | {"AWS_ENDPOINT_URL": at})


def _gs() -> Stand:
    """As an emulator, without credentials: storage has one address only. With them see :class:`TestGoogleLogin`."""
    google = GoogleSimulator()
    for path, data in FILES.items():
        google.put("demo-bucket", f"models/tiny/{path}", data)
    return Stand(google, lambda _: "gs://demo-bucket/models/tiny", lambda at: {"STORAGE_EMULATOR_HOST": at})


def _az() -> Stand:
    """By a key; over TLS as a service principal, which is where tokens may go."""
    azure = AzureSimulator()
    for path, data in FILES.items():
        azure.put("models", f"tiny/{path}", data)
    principal = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": "the-client", "AZURE_CLIENT_SECRET": SECRET}

    def environ(at: str) -> Mapping[str, str]:
        azure.authority = at
        who = {"AZURE_STORAGE_KEY": KEY} if at.startswith("http:") else principal | {"AZURE_AUTHORITY_HOST": at}
        return who | {"AZURE_STORAGE_BLOB_ENDPOINT": f"{at}/{ACCOUNT}"}

    return Stand(azure, lambda _: f"az://{ACCOUNT}/models/tiny", environ)


def _web() -> Stand:
    web = WebServer({f"models/tiny/{path}": data for path, data in FILES.items()})
    web.authorization = f"Bearer {SECRET}"
    return Stand(web, lambda at: f"{at}/models/tiny?file={WEIGHTS}", lambda _: {"LADING_HTTP_TOKEN": SECRET})


STANDS: Mapping[str, Callable[[], Stand]] = {
    "hf": _hf,
    "ngc": _ngc,
    "modelscope": _modelscope,
    "s3": _s3,
    "gs": _gs,
    "az": _az,
    "http": _web,
}


class NamedFront(TlsFront):
    """Ends TLS with a certificate for 127.0.0.1, localhost, *.corp.test and Google's storage host."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._context.load_cert_chain(TLS / "names.pem")


@dataclass(frozen=True)
class Place:
    """A stand at an endpoint; ``front`` is what ends TLS for it, None for plain HTTP."""

    stand: Stand
    endpoint: str
    front: TlsFront | None

    @property
    def environ(self) -> dict[str, str]:
        return {**self.stand.environ(self.endpoint)}

    @property
    def is_reached(self) -> bool:
        return bool(self.stand.server.requests)


@contextmanager
def placed(stand: Stand, tls: bool) -> Iterator[Place]:
    """The stand at its own endpoint, or over TLS, where links to storage lead to TLS too."""
    with stand.server as server:
        if not tls:
            yield Place(stand, server.endpoint, None)
            return
        with NamedFront(server.port) as front:
            server.cdn_endpoint = f"https://localhost:{front.port}"
            yield Place(stand, front.endpoint, front)


class Detour(servers._Listener):
    """A proxy that tunnels to one place, whatever it is asked for: what stands behind squid for names that are not ours."""

    def __init__(self, place: Place) -> None:
        assert place.front
        self._target = place.front.port
        super().__init__(self._tunnel)

    def _tunnel(self, connection: socket.socket) -> None:
        if servers._read_head(connection)[0]:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with socket.create_connection(("127.0.0.1", self._target)) as outside:
                servers._pump(connection, outside)


@pytest.fixture(params=STANDS)
def stand(request: pytest.FixtureRequest) -> Stand:
    if request.param in NEEDED:
        package, extra = NEEDED[request.param]
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'lading[{extra}]'")
    return STANDS[request.param]()


@pytest.fixture
def place(stand: Stand, tls: bool) -> Iterator[Place]:
    with placed(stand, tls) as found:
        yield found


User = Callable[[str, Mapping[str, str]], bytes]


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> User:
    """Somebody with this environment and nothing of this machine's, who reads a part of the model's weights."""
    (tmp_path / "home").mkdir()
    for name in [each for each in os.environ if not each.startswith(KEPT)]:
        monkeypatch.delenv(name)

    def read(uri: str, environ: Mapping[str, str]) -> bytes:
        for name, value in {"HOME": str(tmp_path / "home"), **NO_METADATA, **environ}.items():
            monkeypatch.setenv(name, value)
        model = ModelUri.parse(uri)
        source = source_for(model, Settings.from_env(os.environ))
        file = source.list_files(model).find(WEIGHTS)
        assert file is not None
        for _ in range(40):
            with suppress(PassingFault):  # tinyproxy closes connections without saying so; the transfer asks again too
                return _range(source, file)
            time.sleep(0.05)
        return _range(source, file)

    return read


def _range(source: Source, file: FileEntry) -> bytes:
    got, buffer = bytearray(), memoryview(bytearray(3000))
    with source.open_range(file, 5, 9005) as body:
        while count := body.readinto(buffer):
            got += buffer[:count]
    return bytes(got)


PART = DATA[5:9005]


@contextmanager
def web_server() -> Iterator[WebServer]:
    with WebServer({f"models/tiny/{WEIGHTS}": DATA}) as server:
        yield server


def _resolving_corp_test(resolve: Callable[..., Any]) -> Callable[..., Any]:
    """``socket.getaddrinfo`` on a machine that finds everything in corp.test on itself."""

    def resolving(host: str, *rest: Any, **named: Any) -> Any:
        return resolve("127.0.0.1" if host.endswith(".corp.test") else host, *rest, **named)

    return resolving


@pytest.fixture(scope="module")
def squid() -> Iterator[RealProxy]:
    with proxies.squid() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def tinyproxy() -> Iterator[RealProxy]:
    with proxies.tinyproxy(USER, PASSWORD) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def mitmproxy() -> Iterator[InterceptingProxy]:
    with proxies.mitmdump(AUTHORITY) as proxy:
        yield proxy


class Tail:
    """What a proxy logs from now on."""

    def __init__(self, proxy: RealProxy) -> None:
        self._proxy, self._start = proxy, len(proxy.requests)

    @property
    def lines(self) -> list[str]:
        return self._proxy.requests[self._start :]

    def wait_for(self, count: int) -> list[str]:
        """The lines, once there are so many: a tunnel is logged when it ends, which a source that is gone makes it do."""
        gc.collect()
        assert eventually(lambda: len(self.lines) >= count), (count, self.lines)
        return self.lines


def both_proxies(url: str) -> dict[str, str]:
    return {"http_proxy": url, "HTTPS_PROXY": url}


class TestSquid:
    """A proxy that forwards what is plain and tunnels what is not."""

    @pytest.mark.parametrize("tls", [False])
    def test_all_plain_requests_go_through_it(self, place: Place, user: User, squid: RealProxy) -> None:
        tail = Tail(squid)
        assert user(place.stand.uri(place.endpoint), place.environ | both_proxies(squid.url)) == PART
        asked = sorted(f"{each.method} {each.path}" for each in place.stand.server.requests)
        logged = [line.split(" ")[:2] for line in tail.wait_for(len(asked))]
        assert sorted(f"{method} {urlsplit(url).path}" for method, url in logged) == asked

    @pytest.mark.parametrize("tls", [True])
    def test_all_tls_connections_are_tunnels_that_tell_it_nothing(
        self, place: Place, user: User, squid: RealProxy
    ) -> None:
        tail = Tail(squid)
        trust = {"SSL_CERT_FILE": str(AUTHORITY)}
        assert user(place.stand.uri(place.endpoint), place.environ | both_proxies(squid.url) | trust) == PART
        assert place.front
        lines = tail.wait_for(place.front.connections)
        assert len(lines) == place.front.connections > 0
        hosts = {f"CONNECT {host}:{place.front.port}" for host in ("127.0.0.1", "localhost")}
        assert {" ".join(line.split(" ")[:2]) for line in lines} <= hosts
        assert SECRET not in unquote(" ".join(lines))
        assert "authorization" not in unquote(" ".join(lines)).lower()

    def test_lower_case_wins_over_upper_case(self, user: User, squid: RealProxy, tinyproxy: RealProxy) -> None:
        tails = Tail(squid), Tail(tinyproxy)
        environ = {"http_proxy": squid.url, "HTTP_PROXY": tinyproxy.url, "ALL_PROXY": tinyproxy.url}
        with placed(_hf(), tls=False) as place:
            assert user("hf://demo/tiny", place.environ | environ) == PART
            tails[0].wait_for(len(place.stand.server.requests))
        assert tails[1].lines == []

    @pytest.mark.parametrize("variable", ["all_proxy", "ALL_PROXY"])
    def test_one_proxy_may_stand_for_all(self, user: User, squid: RealProxy, variable: str) -> None:
        tail = Tail(squid)
        with placed(_hf(), tls=False) as place:
            assert user("hf://demo/tiny", place.environ | {variable: squid.url}) == PART
            tail.wait_for(len(place.stand.server.requests))

    def test_names_are_left_to_the_proxy_to_resolve(self, user: User) -> None:
        stand = _hf()
        with (
            placed(stand, tls=True) as place,
            Detour(place) as detour,
            proxies.squid(parents={"hub.corp.test": detour.port}) as proxy,
        ):
            environ = {**stand.environ("https://hub.corp.test"), "SSL_CERT_FILE": str(AUTHORITY)}
            assert user("hf://demo/tiny", environ | both_proxies(proxy.url)) == PART


def refused(place: Place, user: User, proxy: RealProxy, password: str | None) -> LadingError:
    """The error of a user whose credentials for the proxy are wrong, or None at all."""
    url = proxy.url if password is None else proxy.url_with(USER, password)
    with pytest.raises(LadingError) as caught:
        user(place.stand.uri(place.endpoint), place.environ | both_proxies(url) | {"SSL_CERT_FILE": str(AUTHORITY)})
    return caught.value


class TestCredentials:
    """A proxy that lets in who has credentials."""

    @BEHIND_TLS
    def test_those_in_the_proxys_url_are_shown_to_it(self, place: Place, user: User, tinyproxy: RealProxy) -> None:
        tail = Tail(tinyproxy)
        proxy = tinyproxy.url_with(USER, PASSWORD).replace("canary", "%63anary")
        environ = place.environ | both_proxies(proxy) | {"SSL_CERT_FILE": str(AUTHORITY)}
        assert user(place.stand.uri(place.endpoint), environ) == PART
        assert len(tail.lines) == (place.front.connections if place.front else len(place.stand.server.requests))
        assert {line.partition(" ")[0] == "CONNECT" for line in tail.lines} == {bool(place.front)}
        assert PASSWORD not in tinyproxy.log

    @BEHIND_TLS
    @pytest.mark.parametrize("password", [None, "canary-wrong"])
    def test_none_and_wrong_ones_are_an_error_that_hides_them(
        self, place: Place, user: User, tinyproxy: RealProxy, password: str | None
    ) -> None:
        caught = refused(place, user, tinyproxy, password)
        assert caught.exit_code == 3
        assert_hidden(caught, "canary-wrong", b64encode(f"{USER}:{password}".encode()).decode(), SECRET)
        assert not place.is_reached

    @BEHIND_TLS
    @pytest.mark.parametrize(
        ("password", "says"),
        [
            (None, "asks for credentials"),
            ("canary-wrong", "asks for other credentials"),
        ],
    )
    def test_the_error_names_the_proxy_and_its_setting(
        self, place: Place, user: User, tinyproxy: RealProxy, password: str | None, says: str
    ) -> None:
        caught = refused(place, user, tinyproxy, password)
        assert f"the proxy {tinyproxy.url} {says}" in str(caught)
        scheme = "HTTPS" if place.front else "HTTP"
        assert f"write them into {scheme}_PROXY, percent-encoded" in (caught.remedy or "")

    def test_the_program_says_so_and_ends_with_3(self, tinyproxy: RealProxy, tmp_path: Path) -> None:
        with placed(_hf(), tls=False) as place:
            proxy = {"HTTP_PROXY": tinyproxy.url_with("canary-user", ""), "NO_PROXY": ""}
            environ = environment(tmp_path, **place.environ, **proxy)
            done = run(["list-model-profiles", "hf://demo/tiny"], environ)
            assert done.returncode == 3
            assert "canary" not in done.stdout + done.stderr
            environ["HTTP_PROXY"] = tinyproxy.url
            done = run(["list-model-profiles", "hf://demo/tiny"], environ)
            assert done.returncode == 3
            assert f"error: the proxy {tinyproxy.url} asks for credentials (HTTP 407)" in done.stderr
            assert "try: write them into HTTP_PROXY" in done.stderr

    @BEHIND_TLS
    def test_every_character_may_be_in_them(self, user: User, tls: bool) -> None:
        with placed(_hf(), tls) as place, proxies.squid(with_credentials=True) as proxy:
            environ = place.environ | {"SSL_CERT_FILE": str(AUTHORITY)}
            url = proxy.url_with(proxies.USER, proxies.PASSWORD)
            assert user("hf://demo/tiny", environ | both_proxies(url)) == PART
            with pytest.raises(SourceUnreachable, match="asks for other credentials") as caught:
                user("hf://demo/tiny", environ | both_proxies(proxy.url_with(proxies.USER, "wrong")))
            assert caught.value.exit_code == 3


class TestInspection:
    """A proxy that reads TLS, with an authority of its own."""

    @pytest.mark.parametrize("tls", [True])
    @pytest.mark.parametrize("variable", BUNDLES)
    def test_its_authority_is_trusted_when_named(
        self, place: Place, user: User, mitmproxy: InterceptingProxy, variable: str
    ) -> None:
        tail = Tail(mitmproxy)
        environ = place.environ | both_proxies(mitmproxy.url) | {variable: str(mitmproxy.authority)}
        assert user(place.stand.uri(place.endpoint), environ) == PART
        asked = sorted(f"{each.method} {each.path}" for each in place.stand.server.requests)
        seen = [line.split(" ") for line in tail.lines]
        assert sorted(f"{method} {urlsplit(url).path}" for method, url, *_ in seen) == asked
        assert {urlsplit(url).scheme for _, url, *_ in seen} == {"https"}
        assert isinstance(place.stand.server, GoogleSimulator) or any("authorization" in line for line in seen)

    @pytest.mark.parametrize("tls", [True])
    def test_it_is_not_trusted_otherwise(self, place: Place, user: User, mitmproxy: InterceptingProxy) -> None:
        tail = Tail(mitmproxy)
        environ = place.environ | both_proxies(mitmproxy.url) | {"SSL_CERT_FILE": str(AUTHORITY)}
        with pytest.raises(SourceUnreachable, match="certificate is not trusted") as caught:
            user(place.stand.uri(place.endpoint), environ)
        assert caught.value.exit_code == 3
        assert "set SSL_CERT_FILE to a PEM file that holds its authority" in (caught.value.remedy or "")
        assert_hidden(caught.value, SECRET)
        assert tail.lines == []
        assert not place.is_reached


class TestExceptions:
    """What ``NO_PROXY`` names is asked directly."""

    @BEHIND_TLS
    @pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
    def test_every_source_knows_them(self, place: Place, user: User, tinyproxy: RealProxy, variable: str) -> None:
        tail = Tail(tinyproxy)
        exceptions = {variable: "corp.test, 127.0.0.0/8,localhost", "SSL_CERT_FILE": str(AUTHORITY)}
        environ = place.environ | both_proxies(tinyproxy.url) | exceptions
        assert user(place.stand.uri(place.endpoint), environ) == PART
        assert tail.lines == []

    @pytest.mark.parametrize(
        ("host", "entry"),
        [
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1", "127.0.0.1:{port}"),
            ("127.0.0.1", "10.0.0.0/8, 127.0.0.0/8"),
            ("127.0.0.1", "*"),
            ("localhost", "localhost"),
            ("localhost", "LocalHost:{port}"),
            ("localhost", "other.test,.localhost"),
            ("hub.corp.test", "corp.test"),
            ("hub.corp.test", ".corp.test"),
            ("hub.corp.test", "*.corp.test"),
            ("hub.corp.test", ".corp.test:{port}"),
            ("hub.corp.test", "HUB.corp.test"),
        ],
    )
    def test_in_every_form(
        self, user: User, tinyproxy: RealProxy, monkeypatch: pytest.MonkeyPatch, host: str, entry: str
    ) -> None:
        tail = Tail(tinyproxy)
        monkeypatch.setattr(socket, "getaddrinfo", _resolving_corp_test(socket.getaddrinfo))
        with web_server() as web:
            environ = {**both_proxies(tinyproxy.url), "NO_PROXY": entry.format(port=web.port)}
            assert user(f"http://{host}:{web.port}/models/tiny?file={WEIGHTS}", environ) == PART
        assert tail.lines == []

    @pytest.mark.parametrize("entry", ["corp.test", "127.0.0.1:1", "10.0.0.0/8", "0.0.1", "127.0.0.0/33", ""])
    def test_what_they_do_not_name_is_proxied(self, user: User, squid: RealProxy, entry: str) -> None:
        tail = Tail(squid)
        with web_server() as web:
            environ = {**both_proxies(squid.url), "NO_PROXY": entry}
            assert user(f"{web.endpoint}/models/tiny?file={WEIGHTS}", environ) == PART
            tail.wait_for(len(web.requests))

    def test_lower_case_wins_over_upper_case(self, user: User, squid: RealProxy) -> None:
        tail = Tail(squid)
        with web_server() as web:
            environ = {**both_proxies(squid.url), "no_proxy": "corp.test", "NO_PROXY": "*"}
            assert user(f"{web.endpoint}/models/tiny?file={WEIGHTS}", environ) == PART
            tail.wait_for(len(web.requests))


@pytest.fixture
def login(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """The setting of a Google login whose tokens are given out at an endpoint."""
    pytest.importorskip("google.auth", reason="google-auth is not installed: pip install 'lading[gcs]'")

    def made(endpoint: str) -> dict[str, str]:
        about = {"type": "authorized_user", "client_id": "me", "client_secret": SECRET, "refresh_token": SECRET}
        path = tmp_path / "login.json"
        path.write_text(json.dumps({**about, "token_uri": f"{endpoint}/token"}))
        return {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}

    return made


class TestTokenServices:
    """Tokens are fetched on the way that everything else goes."""

    def test_google_login_through_a_tunnel(self, user: User, login: Callable[[str], dict[str, str]]) -> None:
        stand = _gs()
        with placed(stand, tls=True) as place:
            assert place.front
            assert isinstance(stand.server, GoogleSimulator)
            stand.server.require_token()
            with Detour(place) as detour, proxies.squid(parents={"storage.googleapis.com": detour.port}) as proxy:
                tail = Tail(proxy)
                environ = login(place.endpoint) | {"SSL_CERT_FILE": str(AUTHORITY)}
                assert user("gs://demo-bucket/models/tiny", environ | both_proxies(proxy.url)) == PART
                lines = tail.wait_for(place.front.connections)
            targets = {f"127.0.0.1:{place.front.port}", "storage.googleapis.com:443"}
            assert {line.split(" ")[1] for line in lines} == targets
            assert len(lines) == place.front.connections
            assert len(stand.server.grants) == 1
            assert SECRET not in unquote(" ".join(lines))

    @pytest.mark.parametrize("variable", BUNDLES)
    def test_google_login_through_inspection(
        self, user: User, login: Callable[[str], dict[str, str]], mitmproxy: InterceptingProxy, variable: str
    ) -> None:
        stand = _gs()
        tail = Tail(mitmproxy)
        with placed(stand, tls=True) as place:
            assert isinstance(stand.server, GoogleSimulator)
            stand.server.require_token()
            mitmproxy.send_to({"storage.googleapis.com": stand.server.port})
            environ = login(place.endpoint) | {variable: str(mitmproxy.authority)}
            assert user("gs://demo-bucket/models/tiny", environ | both_proxies(mitmproxy.url)) == PART
            assert len(stand.server.grants) == 1
            assert len(tail.lines) == len(stand.server.requests)
        assert tail.lines[0].startswith(f"POST {place.endpoint}/token ")
        assert tail.lines[1].startswith("GET https://storage.googleapis.com/storage/v1/b/demo-bucket/o ")

    @pytest.mark.parametrize("variable", [*BUNDLES, "AWS_CA_BUNDLE"])
    def test_aws_web_identity_through_inspection(
        self, user: User, tmp_path: Path, mitmproxy: InterceptingProxy, variable: str
    ) -> None:
        with aws_role(tmp_path) as place:
            tail = Tail(mitmproxy)
            environ = place.environ | both_proxies(mitmproxy.url) | {variable: str(mitmproxy.authority)}
            assert user("s3://models/org/tiny", environ) == PART
            assert tail.lines[0].startswith(f"POST {place.endpoint}/ ")
            assert len(tail.lines) == len(place.stand.server.requests)

    @pytest.mark.parametrize(
        ("variable", "value"),
        [("NO_PROXY", "127.0.0.0/8"), ("NO_PROXY", "127.0.0.1:{port}"), ("no_proxy", "127.0.0.1"), ("NO_PROXY", "*")],
    )
    def test_aws_web_identity_past_a_proxy(
        self, user: User, tmp_path: Path, tinyproxy: RealProxy, variable: str, value: str
    ) -> None:
        with aws_role(tmp_path) as place:
            assert place.front
            tail = Tail(tinyproxy)
            exceptions = {variable: value.format(port=place.front.port), "SSL_CERT_FILE": str(AUTHORITY)}
            assert user("s3://models/org/tiny", place.environ | both_proxies(tinyproxy.url) | exceptions) == PART
        assert tail.lines == []

    @pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
    def test_aws_web_identity_through_a_proxy_with_credentials(
        self, user: User, tmp_path: Path, tinyproxy: RealProxy, variable: str
    ) -> None:
        with aws_role(tmp_path) as place:
            assert place.front
            environ = place.environ | {"SSL_CERT_FILE": str(AUTHORITY)}
            tail = Tail(tinyproxy)
            assert user("s3://models/org/tiny", environ | {variable: tinyproxy.url_with(USER, PASSWORD)}) == PART
            assert len(tail.lines) == place.front.connections
            asked = len(place.stand.server.requests)
            with pytest.raises(SourceUnreachable) as caught:
                user("s3://models/org/tiny", environ | {variable: tinyproxy.url_with(USER, "canary-wrong")})
            assert caught.value.exit_code == 3
            assert_hidden(caught.value, "canary-wrong")
            assert len(place.stand.server.requests) == asked


@contextmanager
def aws_role(directory: Path) -> Iterator[Place]:
    """Storage, over TLS, for a role that a token file stands for; the token service is at the same place."""
    pytest.importorskip("botocore", reason="botocore is not installed: pip install 'lading[s3]'")
    stand = _s3()
    assert isinstance(stand.server, S3Simulator)
    stand.server.keys = {"ASIAROLE": "token-1"}
    (directory / "jwt").write_text("the-jwt")
    role = {
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(directory / "jwt"),
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/reader",
        "AWS_REGION": "us-east-1",
    }
    only_role = Stand(stand.server, stand.uri, lambda at: role | {"AWS_ENDPOINT_URL": at, "AWS_ENDPOINT_URL_STS": at})
    with placed(only_role, tls=True) as place:
        yield place
