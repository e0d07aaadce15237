"""TLS of the gateway's port: certificates from files, taken again when the files change.

A connection uses the certificate, the key and the authorities that were current when it began, and never resumes a
session of an earlier context: a client whose authority was taken away is out with its next connection. TLS 1.2 is the
oldest version, HTTP/1.1 the only protocol (ALPN).
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lading.errors import UsageError
from lading.events import Note, Report
from lading.gateway.watch import Watched

_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED of x509_vfy.h
_NOT_YET_VALID = 9  # X509_V_ERR_CERT_NOT_YET_VALID


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's key and chain; with ``ca_certs``, clients must show a certificate of one of these."""

    key: Path
    certs: Path
    ca_certs: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.key, self.certs, *([self.ca_certs] if self.ca_certs else []))


def watch_certificates(files: TlsFiles, report: Report) -> Watched[ssl.SSLContext]:
    """The context of ``files``, made again when they change; raises :class:`UsageError` for what they are not."""
    return Watched("the certificates", files.paths, lambda: load_context(files, report), report)


def current_context(watched: Watched[ssl.SSLContext]) -> ssl.SSLContext:
    """A context for a listener, each of whose connections uses the one that is current when it begins."""
    context = _CurrentContext(ssl.PROTOCOL_TLS_SERVER)
    context.watched = watched
    return context


def load_context(files: TlsFiles, report: Report) -> ssl.SSLContext:
    """A server's context; a certificate that is out of its time is reported, not refused."""
    for name, path in (("NIM_SSL_KEY_PATH", files.key), ("NIM_SSL_CERTS_PATH", files.certs)):
        _require_readable(name, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_chain(context, files)
    if complaint := _complaint(context, files.certs):
        report(Note(f"NIM_SSL_CERTS_PATH={files.certs}: {complaint}; clients will refuse it", "WARNING"))
    if files.ca_certs:
        _demand_clients(context, files.ca_certs)
    return context


class _CurrentContext(ssl.SSLContext):
    """Stands where a loop takes one context for good; the loop asks it for each connection's own state."""

    watched: Watched[ssl.SSLContext]

    if not TYPE_CHECKING:  # the arguments are the loop's to choose

        def wrap_bio(self, *args, **kwargs):
            """The state of one connection, of the current context."""
            return self.watched.current.wrap_bio(*args, **kwargs)


class _KeyIsEncrypted(Exception):
    pass


def _no_password() -> str:
    raise _KeyIsEncrypted


def _require_readable(name: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        remedy = f"set {name} to a PEM file that this user may read"
        raise UsageError(f"{name}={path}: {error.strerror}", remedy=remedy) from error


def _load_chain(context: ssl.SSLContext, files: TlsFiles) -> None:
    named = f"NIM_SSL_KEY_PATH={files.key}"
    try:
        context.load_cert_chain(files.certs, files.key, password=_no_password)
    except _KeyIsEncrypted as error:
        remedy = f"write it without a passphrase: openssl pkey -in {files.key} -out key.pem"
        raise UsageError(f"{named}: the key is encrypted", remedy=remedy) from error
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            remedy = "the first certificate of NIM_SSL_CERTS_PATH must be the one that was made for this key"
            raise UsageError(f"{named}: the key does not belong to {files.certs}", remedy=remedy) from error
        raise _unreadable(files, error) from error


def _unreadable(files: TlsFiles, error: ssl.SSLError) -> UsageError:
    """Which of the two files holds nothing of its kind; OpenSSL names neither."""
    has_certificate = b"-----BEGIN CERTIFICATE-----" in files.certs.read_bytes()
    name, path = ("NIM_SSL_KEY_PATH", files.key) if has_certificate else ("NIM_SSL_CERTS_PATH", files.certs)
    kind = "private key" if has_certificate else "certificate"
    return UsageError(
        f"{name}={path}: no {kind} in PEM form can be read ({error.reason or 'malformed'})",
        remedy=f"set {name} to a PEM file with the {kind}",
    )


def _demand_clients(context: ssl.SSLContext, ca_certs: Path) -> None:
    _require_readable("NIM_SSL_CA_CERTS_PATH", ca_certs)
    try:
        context.load_verify_locations(ca_certs)
    except ssl.SSLError as error:
        message = f"NIM_SSL_CA_CERTS_PATH={ca_certs}: no certificate in PEM form can be read"
        remedy = "set NIM_SSL_CA_CERTS_PATH to the authorities that sign the clients' certificates"
        raise UsageError(message, remedy=remedy) from error
    context.verify_mode = ssl.CERT_REQUIRED


def _complaint(context: ssl.SSLContext, certs: Path) -> str | None:
    """What a client that trusts the certificate itself would say of its time: a handshake in memory tells."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(certs)
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = context.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    for each in (theirs, ours, theirs):
        try:
            each.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return {_EXPIRED: "the certificate has expired", _NOT_YET_VALID: "the certificate is not valid yet"}.get(
                error.verify_code
            )
    return None
