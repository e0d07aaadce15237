"""Which proxy a URL goes through: tables, and the laws that hold for every list of exceptions."""

from base64 import b64decode
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.errors import UsageError
from lading.secret import Secret
from lading.sources.proxy import Proxies, Proxy, bypasses_proxy, proxy_for

HTTP, HTTPS, ALL = Secret("http://h:1"), Secret("http://s:2"), Secret("http://a:3")


@pytest.mark.parametrize(
    ("url", "proxies", "expected"),
    [
        ("http://hub.test/x", Proxies(), None),
        ("http://hub.test/x", Proxies(HTTP, HTTPS, ALL), "http://h:1"),
        ("https://hub.test/x", Proxies(HTTP, HTTPS, ALL), "http://s:2"),
        ("https://hub.test/x", Proxies(HTTP, None, ALL), "http://a:3"),
        ("http://hub.test/x", Proxies(None, HTTPS, ALL), "http://a:3"),
        ("http://hub.test/x", Proxies(None, HTTPS, None), None),
        ("https://hub.test/x", Proxies(HTTP, None, None), None),
        ("https://hub.test/x", Proxies(https=Secret("")), None),
        ("https://hub.test/x", Proxies(https=HTTPS, no_proxy="hub.test"), None),
        ("https://hub.test/x", Proxies(https=HTTPS, no_proxy="hub.test:443"), None),
        ("http://hub.test/x", Proxies(http=HTTP, no_proxy="hub.test:443"), "http://h:1"),
        ("https://hub.test:8443/x", Proxies(https=HTTPS, no_proxy="hub.test:8443"), None),
        ("https://[fd00::1]/x", Proxies(https=HTTPS, no_proxy="fd00::/8"), None),
    ],
)
def test_each_scheme_has_its_proxy(url: str, proxies: Proxies, expected: str | None) -> None:
    found = proxy_for(url, proxies)
    assert (found and found.url) == expected


@pytest.mark.parametrize(
    ("host", "port", "no_proxy", "expected"),
    [
        ("hub.test", 443, "", False),
        ("hub.test", 443, "*", True),
        ("hub.test", 443, "other.test, *", True),
        ("hub.test", 443, "hub.test", True),
        ("hub.test", 443, "HUB.Test", True),
        ("HUB.TEST", 443, "hub.test", True),
        ("hub.test.", 443, "hub.test", True),
        ("hub.test", 443, " a.test ,  hub.test ", True),
        ("hub.test", 443, "a.test hub.test", True),
        ("s3.corp.test", 443, "corp.test", True),
        ("s3.corp.test", 443, ".corp.test", True),
        ("s3.corp.test", 443, "*.corp.test", True),
        ("corp.test", 443, ".corp.test", True),
        ("mycorp.test", 443, "corp.test", False),
        ("corp.test.evil.test", 443, "corp.test", False),
        ("hub.test", 443, "hub.test:443", True),
        ("hub.test", 80, "hub.test:443", False),
        ("a.hub.test", 443, ".hub.test:443", True),
        ("hub.test", 443, "hub", False),
        ("hub.test", 443, "test", True),
        ("127.0.0.1", 80, "127.0.0.1", True),
        ("127.0.0.1", 80, "127.0.0.1:80", True),
        ("127.0.0.1", 80, "127.0.0.1:81", False),
        ("127.0.0.1", 80, "0.0.1", False),
        ("10.1.2.3", 80, "10.0.0.0/8", True),
        ("10.1.2.3", 80, "10.9.9.9/8", True),
        ("11.1.2.3", 80, "10.0.0.0/8", False),
        ("hub.test", 80, "0.0.0.0/0", False),
        ("10.1.2.3", 80, "10.0.0.0/nonsense", False),
        ("::1", 80, "::1", True),
        ("[::1]", 80, "0:0:0:0:0:0:0:1", True),
        ("::1", 80, "[::1]", True),
        ("::1", 8080, "[::1]:8080", True),
        ("::1", 80, "[::1]:8080", False),
        ("fd00:1::2", 80, "fd00::/8", True),
        ("fe80::1", 80, "fd00::/8", False),
        ("10.1.2.3", 80, "fd00::/8", False),
        ("::ffff:10.1.2.3", 80, "10.0.0.0/8", True),
        ("hub.test", 80, ",, ,", False),
        ("hub.test", 80, ".", False),
    ],
)
def test_no_proxy_entries(host: str, port: int, no_proxy: str, expected: bool) -> None:
    assert bypasses_proxy(host, port, no_proxy) is expected


names = st.from_regex(r"[a-z][a-z0-9]{0,5}(\.[a-z][a-z0-9]{0,5}){0,3}", fullmatch=True)
entries = st.lists(st.one_of(names, names.map(lambda name: f".{name}"), st.just("10.0.0.0/8"), st.text(max_size=8)))


@given(names, st.integers(1, 65535), entries)
def test_a_named_host_is_never_proxied_whatever_else_is_named(host: str, port: int, others: list[str]) -> None:
    assert bypasses_proxy(host, port, ",".join([*others, host]))
    assert bypasses_proxy(f"a.{host}", port, ",".join([f".{host}", *others]))


@given(names, st.integers(1, 65535), entries)
def test_case_and_kind_of_separator_do_not_matter(host: str, port: int, others: list[str]) -> None:
    plain = [each for each in others if each.isascii()]
    found = bypasses_proxy(host, port, ",".join(plain))
    assert bypasses_proxy(host.upper(), port, " , ".join(plain).swapcase()) is found


@given(names, st.integers(1, 65535), entries, entries)
def test_one_more_exception_never_takes_one_away(host: str, port: int, some: list[str], more: list[str]) -> None:
    if bypasses_proxy(host, port, ",".join(some)):
        assert bypasses_proxy(host, port, ",".join(some + more))


@pytest.mark.parametrize(
    ("text", "url", "credentials"),
    [
        ("http://proxy.test:3128", "http://proxy.test:3128", None),
        ("proxy.test:3128", "http://proxy.test:3128", None),
        ("proxy.test", "http://proxy.test:80", None),
        ("HTTPS://Proxy.test", "https://proxy.test:443", None),
        (" http://proxy.test:3128/ \n", "http://proxy.test:3128", None),
        ("http://[::1]:3128", "http://[::1]:3128", None),
        ("http://user:pass@proxy.test:3128", "http://proxy.test:3128", "user:pass"),
        ("user:pass@proxy.test:3128", "http://proxy.test:3128", "user:pass"),
        ("http://user@proxy.test:3128", "http://proxy.test:3128", "user:"),
        ("http://us%40er:p%3Aa%2Fss@proxy.test:1", "http://proxy.test:1", "us@er:p:a/ss"),
    ],
)
def test_a_proxy_is_read_from_its_url(text: str, url: str, credentials: str | None) -> None:
    proxy = Proxy.parse(text)
    assert proxy.url == url
    sent = proxy.headers.get("Proxy-Authorization", "")
    assert (b64decode(sent.removeprefix("Basic ")).decode() or None) == credentials


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8")))
def test_credentials_survive_percent_encoding(user: str, password: str) -> None:
    proxy = Proxy.parse(f"http://{quote(user, safe='')}:{quote(password, safe='')}@proxy.test:1")
    sent = proxy.headers["Proxy-Authorization"].removeprefix("Basic ")
    assert b64decode(sent).decode() == f"{user}:{password}"


def test_credentials_are_never_shown() -> None:
    proxy = Proxy.parse("http://user:hunter2@proxy.test:1")
    assert "hunter2" not in f"{proxy!r} {proxy} {proxy.url}"
    assert proxy.headers["Proxy-Authorization"] not in f"{proxy!r}"
    assert "hunter2" not in repr(Proxies(https=Secret("http://user:hunter2@proxy.test:1")))


@pytest.mark.parametrize(
    "text", ["socks5://user:hunter2@p:1", "http://", "http://user:hunter2@p:port", "http://p:1 x", "http://[::1", "//"]
)
def test_what_is_no_proxy_is_a_usage_error_that_hides_it(text: str) -> None:
    with pytest.raises(UsageError, match="HTTPS_PROXY is not a proxy") as caught:
        proxy_for("https://hub.test/", Proxies(https=Secret(text)))
    assert caught.value.remedy == "set HTTPS_PROXY to http://[user:password@]host:port, or unset it"
    assert caught.value.__suppress_context__
    with pytest.raises(UsageError, match="ALL_PROXY is not a proxy"):
        proxy_for("https://hub.test/", Proxies(everything=Secret(text)))
