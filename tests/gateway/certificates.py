"""A private authority and what it signs, made when a test needs it."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lading.gateway.tls import TlsFiles

_DAY = datetime.timedelta(days=1)


def pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    how = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(slots=True)
class Authority:
    """Signs certificates for 127.0.0.1 and localhost; ``certificate`` is its own, PEM."""

    name: str = "test authority"
    certificate: bytes = b""
    _key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)

    def __post_init__(self) -> None:
        self.certificate = self._sign(self.name, self._key, -_DAY, 365 * _DAY, is_authority=True)

    def issue(
        self, name: str, *, since: datetime.timedelta = -_DAY, until: datetime.timedelta = 30 * _DAY
    ) -> tuple[bytes, bytes]:
        """A new key and its certificate, both PEM."""
        key = new_key()
        return pem(key), self._sign(name, key, since, until, is_authority=False)

    def server(self, directory: Path, name: str = "server", *, clients: Authority | None = None) -> TlsFiles:
        """The files of a new server in ``directory``."""
        key, certificate = self.issue(name)
        return write(directory, key, certificate, clients)

    def client(self, directory: Path, name: str | None = None, signer: Authority | None = None) -> ssl.SSLContext:
        """A client that trusts this authority, and shows a certificate of ``signer`` where it is given a name."""
        context = ssl.create_default_context(cadata=self.certificate.decode())
        context.set_alpn_protocols(["h2", "http/1.1"])
        if name:
            path = directory / f"{name}.pem"
            path.write_bytes(b"".join((signer or self).issue(name)))
            context.load_cert_chain(path)
        return context

    def _sign(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        since: datetime.timedelta,
        until: datetime.timedelta,
        *,
        is_authority: bool,
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        addresses = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + since)
            .not_valid_after(now + until)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def write(directory: Path, key: bytes, certificate: bytes, clients: Authority | None = None) -> TlsFiles:
    """``tls.key``, ``tls.crt`` and, for mTLS, ``ca.crt`` in ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tls.key").write_bytes(key)
    (directory / "tls.crt").write_bytes(certificate)
    if clients:
        (directory / "ca.crt").write_bytes(clients.certificate)
    return TlsFiles(directory / "tls.key", directory / "tls.crt", directory / "ca.crt" if clients else None)


class SecretVolume:
    """A directory as Kubernetes mounts a Secret: files are links through ``..data``, which is turned at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._versions = 0
        directory.mkdir()

    def put(self, files: dict[str, bytes]) -> None:
        """Replace all files in one step."""
        self._versions += 1
        version = self.directory / f"..version_{self._versions}"
        version.mkdir()
        for name, data in files.items():
            (version / name).write_bytes(data)
        link = self.directory / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(self.directory / "..data")
        for name in files:
            if not (self.directory / name).is_symlink():
                (self.directory / name).symlink_to(Path("..data") / name)
