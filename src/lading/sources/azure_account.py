"""Storage accounts: where the blobs of each are, and what its requests are let in with.

In order: the connection string where it is for the account; a shared access signature; a key; a token of Microsoft
Entra (:mod:`lading.sources.azure_credentials`); nobody. Rules kept here:

* a key never leaves this machine: requests carry its signature, good for minutes;
* a shared access signature goes into the query, which no error or event shows;
* both go to the account that ``AZURE_STORAGE_ACCOUNT`` names alone, where it is set;
* tokens go over https alone, so an emulator at an http address is asked with a key, a signature, or as nobody.
"""

from __future__ import annotations

import hmac
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from ipaddress import ip_address
from typing import Protocol
from urllib.parse import quote, urlsplit

from lading.errors import UsageError
from lading.secret import Secret
from lading.sources.azure_wire import string_to_sign
from lading.sources.interface import usable_token
from lading.sources.urls import is_http_url

_VERSION = "2021-12-02"
_SUFFIX = "core.windows.net"
_CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
_ENDPOINT = "AZURE_STORAGE_BLOB_ENDPOINT"


class Credential(Protocol):
    """What lets requests in. Safe to use from several threads."""

    @property
    def name(self) -> str | None:
        """What it is and where it came from, never what it holds; None for nobody. Known once something was signed."""

    @property
    def if_rejected(self) -> str:
        """What its owner does when it is not accepted."""

    @property
    def if_forbidden(self) -> str:
        """What its owner does when it is accepted and may not read."""

    def sign(
        self, url: str, headers: Mapping[str, str], rejected: Mapping[str, str] | None = None
    ) -> tuple[str, dict[str, str]]:
        """The URL and headers to ask with, after ``rejected`` ones with others where there are any."""


@dataclass(frozen=True, slots=True)
class Nobody:
    """The credential of public containers."""

    name: None = None
    if_rejected: str = (
        "set AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_KEY; tokens of Microsoft Entra "
        "go to https endpoints alone"
    )
    if_forbidden: str = if_rejected

    def sign(
        self,
        url: str,
        headers: Mapping[str, str],
        rejected: Mapping[str, str] | None = None,  # noqa: ARG002  # there are no others
    ) -> tuple[str, dict[str, str]]:
        """The request as it is."""
        return url, dict(headers)


@dataclass(frozen=True, slots=True)
class SharedAccess:
    """A shared access signature, ``sv=…&sig=…``, from ``setting``."""

    text: Secret
    setting: str

    @property
    def name(self) -> str:
        """Where it came from."""
        return f"the shared access signature in {self.setting}"

    @property
    def if_rejected(self) -> str:
        """What to do when it is not accepted."""
        return f"make a new one: it may have ended, or be another account's; put it into {self.setting} whole"

    @property
    def if_forbidden(self) -> str:
        """What to do when it may not read."""
        return "make one with the permissions to read and to list (sp=rl) for this container"

    def sign(
        self,
        url: str,
        headers: Mapping[str, str],
        rejected: Mapping[str, str] | None = None,  # noqa: ARG002  # there are no others
    ) -> tuple[str, dict[str, str]]:
        """The URL with the signature in its query."""
        return f"{url}{'&' if '?' in url else '?'}{self.text.reveal()}", dict(headers)


@dataclass(frozen=True, slots=True)
class AccountKey:
    """A key of ``account``, from ``setting``."""

    account: str
    key: bytes = field(repr=False)
    setting: str
    clock: Callable[[], float] = time.time

    @property
    def name(self) -> str:
        """Where it came from."""
        return f"the key in {self.setting}"

    @property
    def if_rejected(self) -> str:
        """What to do when it is not accepted."""
        return (
            f"check that {self.setting} holds a key of {self.account}, whole and not replaced since, and this "
            "machine's clock; a proxy that changes requests breaks signatures too"
        )

    @property
    def if_forbidden(self) -> str:
        """What to do when it may not read."""
        return f"allow this machine in the network rules of {self.account}"

    def sign(
        self,
        url: str,
        headers: Mapping[str, str],
        rejected: Mapping[str, str] | None = None,  # noqa: ARG002  # there are no others
    ) -> tuple[str, dict[str, str]]:
        """The headers with a date and their signature (``SharedKey``)."""
        dated = {**headers, "x-ms-date": formatdate(self.clock(), usegmt=True)}
        code = hmac.digest(self.key, string_to_sign(self.account, url, dated).encode(), "sha256")
        return url, {**dated, "Authorization": f"SharedKey {self.account}:{b64encode(code).decode()}"}


@dataclass(frozen=True, slots=True)
class Account:
    """A storage account: its endpoint, without a slash at the end, and what its requests are let in with."""

    name: str
    endpoint: str
    credential: Credential

    @property
    def headers(self) -> dict[str, str]:
        """What every request has."""
        return {"x-ms-version": _VERSION}

    def url(self, container: str, name: str = "", query: Mapping[str, str] | None = None) -> str:
        """The URL of a blob, of the container itself for the empty name."""
        pairs = "&".join(f"{key}={quote(value, safe='')}" for key, value in (query or {}).items())
        path = f"{container}/{quote(name, safe='/')}" if name else container
        return f"{self.endpoint}/{path}{'?' if pairs else ''}{pairs}"


@dataclass(frozen=True, slots=True)
class ConnectionString:
    """What a connection string says. ``account`` None: it does not tell whose it is."""

    account: str | None
    endpoint: str | None
    key: Secret | None
    signature: Secret | None

    @classmethod
    def parse(cls, text: Secret) -> ConnectionString:
        """Its parts; UsageError, without any of them, for one that is none."""
        pairs = (part.partition("=") for part in text.reveal().strip().split(";") if part.strip())
        parts = {name.strip().lower(): value.strip() for name, mark, value in pairs if mark}
        if "usedevelopmentstorage" in parts:
            raise _unusable("is the emulator's short form", "AccountName, AccountKey and BlobEndpoint written out")
        account, endpoint = parts.get("accountname") or None, parts.get("blobendpoint") or None
        if endpoint and not is_http_url(endpoint):
            raise _unusable("has a BlobEndpoint that is no URL", "BlobEndpoint=https://…")
        if not account and not endpoint:
            raise _unusable("names no account", "AccountName=…;AccountKey=…, or BlobEndpoint=…;SharedAccessSignature=…")
        if account and not endpoint:
            protocol = parts.get("defaultendpointsprotocol") or "https"
            endpoint = f"{protocol}://{account}.blob.{parts.get('endpointsuffix') or _SUFFIX}"
        key, signature = parts.get("accountkey"), parts.get("sharedaccesssignature")
        return cls(
            account or _account_of(endpoint or ""),
            endpoint,
            Secret(key, _CONNECTION_STRING) if key else None,
            Secret(signature, _CONNECTION_STRING) if signature else None,
        )


@dataclass(frozen=True, slots=True)
class Accounts:
    """All storage accounts, as the settings see them. ``only`` is the one that ``key`` and ``signature`` are for."""

    tokens: Credential
    connection: ConnectionString | None = None
    signature: Secret | None = None
    key: Secret | None = None
    only: str | None = None
    endpoint: str | None = None

    def of(self, name: str) -> Account:
        """The account called ``name``; UsageError for an endpoint, a key or a signature that cannot be used."""
        connection = self.connection if self.connection and self.connection.account in (None, name) else None
        endpoint = self.endpoint or (connection and connection.endpoint) or f"https://{{account}}.blob.{_SUFFIX}"
        endpoint = endpoint.replace("{account}", name).rstrip("/")
        if not is_http_url(endpoint) or "@" in urlsplit(endpoint).netloc or urlsplit(endpoint).query:
            raise UsageError(
                f"{_ENDPOINT} or {_CONNECTION_STRING} names no usable endpoint",
                remedy=f"set {_ENDPOINT} to https://host, without credentials, or unset it",
            )
        return Account(name, endpoint, self._credential(name, endpoint, connection))

    def _credential(self, name: str, endpoint: str, connection: ConnectionString | None) -> Credential:
        own = self.only in (None, name)
        candidates = (
            connection and connection.key and _account_key(name, connection.key),
            connection and connection.signature and _shared_access(connection.signature),
            self.signature and own and _shared_access(self.signature),
            self.key and own and _account_key(name, self.key),
        )
        found = next((each for each in candidates if each), None)
        return found or (self.tokens if endpoint.startswith("https:") else Nobody())


def _account_key(account: str, key: Secret) -> AccountKey | None:
    text = usable_token(key, key.name)
    if text is None:
        return None
    try:
        return AccountKey(account, b64decode(text.reveal(), validate=True), key.name)
    except ValueError:
        raise UsageError(
            f"{key.name} holds no key of a storage account: it is not base64",
            remedy=f"set {key.name} to one of the account's two keys, as the portal shows it",
        ) from None


def _shared_access(signature: Secret) -> SharedAccess | None:
    text = usable_token(signature, signature.name)
    if text is None:
        return None
    bare = text.reveal().removeprefix("?")
    if "sig=" not in bare or "#" in bare:
        raise UsageError(
            f"{signature.name} holds no shared access signature",
            remedy="it is what follows '?' in a signed URL: sv=…&sp=rl&sig=…",
        )
    return SharedAccess(Secret(bare, signature.name), signature.name)


def _account_of(endpoint: str) -> str | None:
    """The account that an endpoint is for: of Azure's form, or an emulator's; None for a domain of one's own."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    if host == "localhost" or _is_ip_address(host):
        return parts.path.strip("/").partition("/")[0] or None
    labels = host.split(".")
    return labels[0] if labels[1:2] == ["blob"] else None


def _is_ip_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _unusable(why: str, wanted: str) -> UsageError:
    return UsageError(f"{_CONNECTION_STRING} {why}", remedy=f"set {_CONNECTION_STRING} to {wanted}, or unset it")
