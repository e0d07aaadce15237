"""From settings to what the gateway keeps to."""

from __future__ import annotations

from pathlib import Path

import pytest

from lading.cli.gateway_settings import access_of
from lading.errors import UsageError
from lading.gateway.access import Access
from lading.gateway.tls import TlsFiles
from lading.settings import Settings, deprecations

FILES = {"NIM_SSL_KEY_PATH": "/tls/key", "NIM_SSL_CERTS_PATH": "/tls/certs"}


def access(**environ: str) -> Access:
    return access_of(Settings.from_env(environ), None, None)


def test_by_default_it_is_plain_http_on_one_port():
    found = access()
    assert (found.host, found.port, found.tls, found.health_port) == ("0.0.0.0", 8000, None, None)


def test_the_command_line_wins():
    found = access_of(Settings.from_env({"NIM_SERVER_PORT": "1", "LADING_HOST": "a"}), "b", 2)
    assert (found.host, found.port) == ("b", 2)


@pytest.mark.parametrize(
    ("health", "server", "expected"), [("8001", "8000", 8001), ("8000", "8000", None), ("0", "0", 0)]
)
def test_a_port_for_probes_that_is_the_same_is_none(health, server, expected):
    assert access(NIM_HEALTH_PORT=health, NIM_SERVER_PORT=server).health_port == expected


@pytest.mark.parametrize("mode", ["tls", "TLS"])
def test_tls_takes_key_and_certificate(mode):
    found = access(**FILES, NIM_SSL_MODE=mode, NIM_SSL_CA_CERTS_PATH="/tls/ca")
    assert found.tls == TlsFiles(Path("/tls/key"), Path("/tls/certs"))


def test_mtls_takes_the_authorities_of_clients_too():
    found = access(**FILES, NIM_SSL_MODE="mtls", NIM_SSL_CA_CERTS_PATH="/tls/ca")
    assert found.tls == TlsFiles(Path("/tls/key"), Path("/tls/certs"), Path("/tls/ca"))


def test_the_older_spelling_of_the_certificate_is_read_and_said():
    environ = {"NIM_SSL_MODE": "TLS", "NIM_SSL_KEY_PATH": "/tls/key", "NIM_SSL_CERT_PATH": "/tls/old"}
    assert access(**environ).tls == TlsFiles(Path("/tls/key"), Path("/tls/old"))
    assert "NIM_SSL_CERTS_PATH" in deprecations(environ)[0]


@pytest.mark.parametrize("missing", ["NIM_SSL_KEY_PATH", "NIM_SSL_CERTS_PATH", "NIM_SSL_CA_CERTS_PATH"])
def test_what_a_mode_lacks_is_named(missing):
    environ = {**FILES, "NIM_SSL_CA_CERTS_PATH": "/tls/ca", "NIM_SSL_MODE": "MTLS", missing: ""}
    with pytest.raises(UsageError) as refusal:
        access(**environ)
    assert f"NIM_SSL_MODE=MTLS needs {missing}" in refusal.value.message


def test_without_a_mode_files_are_not_looked_at():
    assert access(**FILES).tls is None


def test_browsers_of_every_origin_are_let_in_by_default():
    found = access().cors
    assert found is not None
    assert (found.origins, found.expose, found.max_age_seconds) == (("*",), "X-Request-Id", 600)
    assert "Authorization" in found.headers


def test_origins_are_a_list_and_none_leaves_them_to_the_engine():
    found = access(NIM_CORS_ALLOW_ORIGINS="https://a.test/, http://b.test:3000")
    assert found.cors is not None
    assert found.cors.origins == ("https://a.test", "http://b.test:3000")
    assert access(NIM_CORS_ALLOW_ORIGINS="none").cors is None


@pytest.mark.parametrize(
    ("text", "expected"), [("", None), ("0", None), ("500M", 500 << 20), ("1k", 1024), ("2g", 2 << 30), ("7", 7)]
)
def test_a_body_limit_is_read_as_nginx_reads_it(text, expected):
    assert access(NIM_PROXY_CLIENT_MAX_BODY_SIZE=text).body_bytes == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("NIM_PROXY_CLIENT_MAX_BODY_SIZE", "much"),
        ("NIM_CORS_ALLOW_HEADERS", "a\r\nset-cookie: b"),
        ("NIM_CORS_MAX_AGE", "-1"),
    ],
)
def test_what_cannot_be_read_is_named(name, text):
    with pytest.raises(UsageError, match=name):
        access(**{name: text})


def test_an_unknown_mode_is_refused():
    with pytest.raises(UsageError, match="NIM_SSL_MODE"):
        access(NIM_SSL_MODE="HTTPS")


@pytest.mark.parametrize(
    ("host", "name", "expected"),
    [
        ("0.0.0.0", None, "http://0.0.0.0:80"),
        ("::", None, "http://[::]:80"),
        ("::", "localhost", "http://localhost:80"),
    ],
)
def test_an_address_is_written_as_a_url(host, name, expected):
    assert Access(host, 80).url(80, name) == expected
