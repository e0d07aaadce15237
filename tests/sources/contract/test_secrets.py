"""Where secrets go: to the one server that they are for, and into nothing that anybody is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from lading.cache.root import CacheRoot
from lading.errors import LadingError, OfflineError, SourceProtocolError
from lading.events import Event, ignore
from lading.secret import Secret
from lading.uri import Scheme
from tests.simulators.faults import CutAfter, IgnoreRange, Status, WrongRange
from tests.simulators.server import Call, Reply, Request
from tests.sources.contract.line import Cut, Line
from tests.sources.contract.models import FILES, WEIGHTS, fetch, hurried_source, read, source_of
from tests.sources.contract.stand import SECRETS, ServedStand, Stand, move_away, shown_forms
from tests.sources.servers import FakeTime, assert_hidden

FORBIDDEN = ("authorization", "cookie", "proxy-", "x-amz-", "x-ngc-", "x-goog-", "x-ms-", "x-api-", "api-key")


def assert_shown_nowhere(text: str, stand: Stand) -> None:
    found = [each for secret in stand.secrets for each in shown_forms(secret) if each in text]
    assert found == [], text


def sent_with(request: Request) -> str:
    return f"{request.path}?{request.query}\n" + "\n".join(
        f"{name}: {value}" for name, value in request.headers.items()
    )


class TestOtherHosts:
    def test_storage_gets_no_credential(self, served, cache):
        source = source_of(served)
        fetch(served.listed(source), source, cache)
        assert bool(served.requests_elsewhere) == served.bytes_from_storage
        for each in served.requests_elsewhere:
            self.assert_harmless(each, served)

    def test_a_redirect_to_another_host_takes_no_credential_along(self, served, cache):
        source = hurried_source(served, FakeTime())
        move_away(served)
        manifest = served.listed(source)
        assert {each.path: read(source, each) for each in manifest.files} == FILES
        assert served.requests_elsewhere
        for each in served.requests_elsewhere:
            self.assert_harmless(each, served)

    def test_a_redirect_of_a_read_alone_takes_no_credential_along(self, served):
        source = hurried_source(served, FakeTime())
        manifest = served.listed(source)
        move_away(served)
        assert {each.path: read(source, each) for each in manifest.files} == FILES
        for each in served.requests_elsewhere:
            self.assert_harmless(each, served)

    def test_no_server_gets_the_credentials_of_another(self, served, cache):
        source = source_of(served)
        fetch(served.listed(source), source, cache)
        foreign = [each for each in SECRETS if each not in served.own_secrets]
        for request in served.requests:
            text = sent_with(request)
            assert [each for secret in foreign for each in shown_forms(secret) if each in text] == []
            assert "proxy-authorization" not in request.headers

    def test_no_url_holds_a_credential(self, served, cache):
        """URLs stand in the logs of servers and proxies. Links to storage, made by the hub, are its own to sign."""
        if served.signs_urls:
            pytest.skip("its protocol has the signature in the query")
        source = source_of(served)
        fetch(served.listed(source), source, cache)
        for request in served.requests:
            text = f"{request.path}?{request.query} {request.headers.get('referer', '')}"
            assert [each for secret in SECRETS for each in shown_forms(secret) if each in text] == []

    def assert_harmless(self, request: Request, served: ServedStand) -> None:
        assert [name for name in request.headers if name.startswith(FORBIDDEN)] == []
        text = sent_with(request)
        own = {value for _, value in parse_qsl(request.query)}
        secrets = [each for each in served.secrets if each not in own]
        assert [each for secret in secrets for each in shown_forms(secret) if each in text] == []


class TestHttps:
    def test_never_becomes_http(self, served):
        """A server that is asked by https and sends us on to http, for its listing or for its files."""
        with over_tls(served) as environ:
            source = source_of(served, ignore, **environ)
            if served.bytes_from_storage:  # whose links start with http here
                manifest = served.listed(source)
                with pytest.raises(SourceProtocolError), source.open_range(manifest.files[-2], 0, 1):
                    pass
                assert served.requests_elsewhere == []
            move_away(served, to=f"http://localhost:{served.line.port}")
            with pytest.raises(SourceProtocolError) as caught:
                served.listed(source)
            assert_hidden(caught.value, *served.secrets)
        assert served.requests_elsewhere == []


@contextmanager
def over_tls(served: ServedStand) -> Iterator[dict[str, str]]:
    """The settings for the stand's server when it is asked by https."""
    if served.scheme is Scheme.HTTP:
        pytest.skip("asked by http: https:// is a stand of its own")
    if served.scheme in (Scheme.GS, Scheme.HTTPS):
        yield {}
        return
    with Line(served.server.port, tls=True) as line:
        served.server.endpoint = line.endpoint
        yield served.environ_at(line.endpoint)


class TestErrors:
    def test_a_server_that_repeats_what_it_was_sent_is_not_quoted(self, served: ServedStand) -> None:
        """In its own form of a refusal, for listings and for reads."""
        events: list[Event] = []
        source = hurried_source(served, FakeTime(), events.append)
        entry = served.entry(source, WEIGHTS)
        for status in (400, 401, 403, 404, 409, 412, 418, 429, 500):
            echo(served, status)
            for act in (lambda: served.listed(source), lambda: read(source, entry), lambda: read(source, entry, 5, 6)):
                with pytest.raises(LadingError) as caught:
                    act()
                assert_hidden(caught.value, *forms(served))
        assert_shown_nowhere(repr(events), served)

    def test_a_token_service_that_repeats_what_it_was_sent_is_not_quoted(self, served):
        """The first request of all is refused, whatever it is."""
        for status in (400, 401, 403, 404):
            source = hurried_source(served, FakeTime())
            echo(served, status, everything=True)
            with pytest.raises(LadingError) as caught:
                served.listed(source)
            assert_hidden(caught.value, *forms(served))

    def test_the_errors_of_the_line(self, served: ServedStand) -> None:
        source = hurried_source(served, FakeTime())
        entry = served.entry(source, WEIGHTS)
        read(source, entry, 0, 1)
        shown: list[LadingError] = []
        for fault in (
            CutAfter(100),
            CutAfter(100, reset=True),
            Status(503, retry_after=3, body=b""),
            Status(403, body=b""),  # makes those who keep a link get a new one
            Status(418, body=b""),
            WrongRange(),
            IgnoreRange(),
        ):
            served.fault(WEIGHTS, fault)
            try:
                read(source, entry, 10, 50_000)
            except LadingError as error:
                shown.append(error)
        assert served.server.unused_faults == []
        assert len(shown) >= 5
        for each in shown:
            assert_hidden(each, *forms(served))

    def test_a_server_that_is_gone(self, served):
        source = hurried_source(served, FakeTime())
        entry = served.entry(source, WEIGHTS)
        read(source, entry, 0, 1)
        served.close()
        for act in (lambda: served.listed(source), lambda: read(source, entry)):
            with pytest.raises(LadingError) as caught:
                act()
            assert_hidden(caught.value, *forms(served))

    def test_what_is_reported(self, served: ServedStand, cache: CacheRoot) -> None:
        events: list[Event] = []
        source = hurried_source(served, FakeTime(), events.append)
        served.line.cut(Cut(0), Cut(0))
        manifest = served.listed(source)
        served.fault(WEIGHTS, CutAfter(10), Status(503, retry_after=0), CutAfter(20, reset=True))
        fetch(manifest, source, cache, events.append)
        assert len(events) > 5
        assert_shown_nowhere(repr(events), served)


class TestValues:
    def test_a_source_does_not_show_them(self, stand):
        source = source_of(stand)
        assert_shown_nowhere(everything_shown(source), stand)
        manifest = stand.listed(source)
        for each in manifest.files:
            read(source, each)
        source.access(stand.uri)
        found = [each for secret in secrets_of_values(stand) for each in shown_forms(secret)]
        text = everything_shown(source)
        assert [each for each in found if each in text] == []

    def test_neither_do_manifests_and_the_cache(self, served, cache, tmp_path):
        source = source_of(served)
        manifest = served.listed(source)
        assert_shown_nowhere(json.dumps(manifest.to_json()), served)
        assert_shown_nowhere(repr(manifest), served)
        fetch(manifest, source, cache)
        files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
        assert len(files) > len(FILES)
        for path in files:
            assert_shown_nowhere(f"{path}\n{path.read_bytes().decode('latin-1')}", served)

    def test_nor_what_a_transfer_leaves_that_failed(self, served, cache, tmp_path):
        source = source_of(served)
        manifest = served.listed(source)
        served.fault(WEIGHTS, Status(403, body=b""), times=None)
        served.server.interpose = lambda call: Reply(403, {}, b"") if call.host == "hub" else None
        with pytest.raises(LadingError) as caught:
            fetch(manifest, source, cache)
        assert_hidden(caught.value, *forms(served))
        for path in [each for each in (tmp_path / "cache").rglob("*") if each.is_file()]:
            assert_shown_nowhere(f"{path}\n{path.read_bytes().decode('latin-1')}", served)


class TestOffline:
    def test_nobody_is_asked_for_a_listing(self, served):
        source = source_of(served, LADING_OFFLINE="1")
        with pytest.raises(OfflineError) as caught:
            source.list_files(served.uri if served.can_list else served.uri.with_file(WEIGHTS))
        assert caught.value.remedy
        assert_hidden(caught.value, *forms(served))
        assert (served.line.connections, served.requests) == (0, [])

    def test_nobody_is_asked_for_bytes(self, served):
        manifest = served.listed(source_of(served))
        before = len(served.requests)
        source = source_of(served, HF_HUB_OFFLINE="1")
        entry = replace(manifest.files[-1])
        with pytest.raises(OfflineError), source.open_range(entry, 0, 1):
            pass
        assert len(served.requests) == before

    def test_nobody_is_asked_for_access(self, served):
        source_of(served, LADING_OFFLINE="1").access(served.uri)
        assert (served.line.connections, served.requests) == (0, [])

    def test_a_directory_is_read_all_the_same(self, stand):
        if isinstance(stand, ServedStand):
            pytest.skip("this one needs the network")
        source = source_of(stand, LADING_OFFLINE="1")
        assert {each.path: read(source, each) for each in stand.listed(source).files} == FILES


def forms(stand: Stand) -> list[str]:
    return [each for secret in stand.secrets for each in shown_forms(secret)]


def secrets_of_values(stand: Stand) -> tuple[str, ...]:
    """Credentials; links to storage may be kept as text, as nobody prints what holds them."""
    return (*SECRETS, *stand.own_secrets) if isinstance(stand, ServedStand) else SECRETS


def echo(served: ServedStand, status: int, *, everything: bool = False) -> None:
    """Refuse requests from now on, and quote what they came with."""

    def interpose(call: Call) -> Reply | None:
        if call.path == "/token" and not everything:
            return None
        told = [value.partition(" ")[2] or value for name, value in call.headers.items() if name.startswith(FORBIDDEN)]
        return served.refusal(status, f"no {' '.join(told)} {call.body.decode('latin-1')}")

    served.server.interpose = interpose


def everything_shown(root: object) -> str:
    """What anybody sees who prints the object, or what it is made of, as far as that is ours."""
    return "\n".join(_shown(root, set()))


def _shown(value: object, seen: set[int]) -> Iterator[str]:
    if id(value) in seen:
        return
    seen.add(id(value))
    yield repr(value)
    if isinstance(value, Secret | Path):
        return
    members: list[object] = []
    if isinstance(value, dict):
        members = [*value, *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        members = list(value)
    elif type(value).__module__.startswith("lading"):
        names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        members = [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in names)]
    for each in members:
        yield from _shown(each, seen)
