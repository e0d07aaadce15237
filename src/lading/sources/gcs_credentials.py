"""Tokens for Google Cloud Storage: Application Default Credentials, in the order of Google's own libraries.

The file that ``GOOGLE_APPLICATION_CREDENTIALS`` names (a service account's key, a federated workload identity, …); the
login of ``gcloud auth application-default login``; the metadata server (Compute Engine, GKE, Vertex AI, Cloud Run).
Rules kept here:

* files are given to google-auth's class for their type, never to its ``default()``, which reads the environment again,
  runs ``gcloud`` and asks cloudresourcemanager for a project; what it sends goes the way of every source's requests;
* google-auth's metadata client needs ``requests`` and is not used: its one call is made here, past any proxy;
* the metadata server is looked for once: one try, one second, by address, since a name can take long to be unknown;
* an error names where a credential came from, never what it holds.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from threading import Lock
from typing import Any

from lading.errors import SourceError, SourceProtocolError, Unauthorized, UsageError
from lading.events import Report, ignore
from lading.secret import Secret
from lading.sources.answer import Answer
from lading.sources.fault import Limits
from lading.sources.http import HttpClient, Network
from lading.sources.urls import is_http_url, redacted

METADATA_HOST = "169.254.169.254"
WELL_KNOWN_FILE = "application_default_credentials.json"

READ_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
WRITE_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_FLAVOR = {"Metadata-Flavor": "Google"}
_METADATA_TOKEN = "computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105  # a path
_DETECTION = Limits(connect_seconds=1.0, read_seconds=1.0, tries=1)
_METADATA = Limits(connect_seconds=1.0)
_MARGIN_SECONDS = 225.0  # as google-auth has it: earlier than that, the metadata server repeats the old token
_LOGIN_ENDPOINT = "https://oauth2.googleapis.com/token"
_AWS = "urn:ietf:params:aws:token-type:aws4_request"
_REMEDIES = {
    "service_account": "make a new key for the account, and check this machine's clock",
    "authorized_user": "log in again: gcloud auth application-default login",
    "external_account": "check that its credential_source gives a token that the pool accepts; a program must be "
    "allowed by GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1",
}
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")


@dataclass(frozen=True, slots=True)
class Places:
    """Where credentials may be: a file, gcloud's directory, the metadata server (``host[:port]``); None: not asked."""

    application_credentials: Path | None = None
    gcloud_config: Path | None = None
    metadata_host: str | None = METADATA_HOST


@dataclass(frozen=True, slots=True)
class Token:
    """What the storage host is sent, and the time (as :func:`time.time` has it) when that ends."""

    text: Secret
    expires_at: float
    quota_project: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers that hold it, in clear."""
        project = {"X-Goog-User-Project": self.quota_project} if self.quota_project else {}
        return {"Authorization": f"Bearer {self.text.reveal()}"} | project


@dataclass(frozen=True, slots=True)
class _Found:
    """A credential: where it came from, and how to get a token for it."""

    name: str
    fetch: Callable[[], Token]


class GoogleCredentials:
    """The first credential that ``places`` have, looked for when first needed. Safe to use from several threads."""

    def __init__(
        self,
        network: Network,
        places: Places,
        report: Report = ignore,
        *,
        scope: str = READ_SCOPE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._network = network
        self._scope = scope
        self._places = places
        self._report = report
        self._clock = clock
        self._lock = Lock()
        self._looked = False
        self._found: _Found | None = None
        self._token: Token | None = None
        self.given: list[Secret] = []  # every token so far, to be hidden where a server repeats it

    @property
    def name(self) -> str | None:
        """Where the credential came from, once asked for headers; None where there is none."""
        return self._found.name if self._found else None

    def headers(self, rejected: Mapping[str, str] | None = None) -> dict[str, str]:
        """The headers for the storage host, good for minutes; none where no place has a credential.

        Other ones than ``rejected``. Raises UsageError for a credential file that cannot be used and for a missing
        google-auth, Unauthorized where no token is given for it, another SourceError where none can be asked for.
        """
        with self._lock:
            if not self._looked:
                self._found, self._looked = self._look(), True
            if self._found is None:
                return {}
            token = self._token
            ends = token is None or token.expires_at - self._clock() < _MARGIN_SECONDS
            if token is None or ends or token.headers == rejected:
                token = self._token = self._found.fetch()
                self.given.append(token.text)
            return token.headers

    def _look(self) -> _Found | None:
        places = self._places
        if places.application_credentials:
            path = places.application_credentials
            return self._from_file(f"GOOGLE_APPLICATION_CREDENTIALS={path}", path)
        well_known = places.gcloud_config / WELL_KNOWN_FILE if places.gcloud_config else None
        if well_known and _is_file(well_known):
            return self._from_file(f"gcloud's login {well_known}", well_known)
        if places.metadata_host and self._is_metadata_server(places.metadata_host):
            host = places.metadata_host
            return _Found(f"the metadata server {host}", lambda: self._metadata_token(host))
        return None

    def _from_file(self, name: str, path: Path) -> _Found:
        info = _read(name, path)
        kind = info.get("type")
        try:
            from google.auth.exceptions import GoogleAuthError

            credentials = _credentials_of(info, self._scope)
        except ImportError as error:
            raise UsageError(f"{name} needs google-auth to be used", remedy='pip install "lading[gcs]"') from error
        except (GoogleAuthError, ValueError, TypeError, KeyError, AttributeError):
            # Without their cause, here and below: google-auth's texts may quote what they could not read.
            raise _broken(name, f"is no credential that google-auth reads (its type is {kind!r:.60})") from None
        name = f"{name} ({kind})"
        return _Found(name, lambda: self._token_of(credentials, name, str(kind)))

    def _token_of(self, credentials: Any, name: str, kind: str) -> Token:
        from google.auth.exceptions import GoogleAuthError

        try:
            credentials.refresh(_Transport(self._network, self._report))
        except GoogleAuthError as error:
            raise _no_token(name, kind, error) from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise SourceProtocolError(
                f"the token endpoint of {name} answers with something that is no token",
                remedy="check the endpoints in that file, and that no login page answers in their place",
            ) from None
        expiry = credentials.expiry
        ends = expiry.replace(tzinfo=UTC).timestamp() if expiry else float("inf")
        return Token(Secret(str(credentials.token)), ends, credentials.quota_project_id)

    def _is_metadata_server(self, host: str) -> bool:
        try:
            answer = self._ask_metadata_server(host, "", _DETECTION)
        except SourceError:
            return False
        return answer.headers.get("Metadata-Flavor") == "Google"

    def _metadata_token(self, host: str) -> Token:
        answer = self._ask_metadata_server(host, _METADATA_TOKEN, _METADATA)
        if answer.status != 200:
            raise Unauthorized(
                f"the metadata server {host} gives no token (HTTP {answer.status})",
                remedy="attach a service account to this machine or workload, or set GOOGLE_APPLICATION_CREDENTIALS; "
                "NO_GCE_CHECK=true reads public buckets without credentials",
            )
        return parse_metadata_token(answer.body, self._clock())

    def _ask_metadata_server(self, host: str, path: str, limits: Limits) -> Answer:
        client = HttpClient(Network(limits=limits), report=self._report)
        try:
            return client.fetch(f"http://{host}/{path}", _FLAVOR)
        finally:
            client.close()


@dataclass(frozen=True, slots=True)
class _GoogleAnswer:
    """An answer with the names that google-auth reads."""

    status: int
    headers: Mapping[str, str]
    data: bytes


@dataclass(frozen=True, slots=True)
class _Transport:
    """What google-auth sends its requests with (its ``google.auth.transport.Request``). No redirect is followed."""

    network: Network
    report: Report

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ARG002  # part of the interface; the network's limits hold
        **options: object,
    ) -> _GoogleAnswer:
        if options.get("cert"):
            raise UsageError(
                "federation by client certificate is not supported", remedy="use a token in a file or from a URL"
            )
        if not is_http_url(url):
            raise SourceProtocolError(f"not a URL of a token endpoint: {redacted(url)}")
        client = HttpClient(self.network, report=self.report)
        try:
            answer = client.send(method, url, headers or {}, body.encode() if isinstance(body, str) else body)
        finally:
            client.close()
        return _GoogleAnswer(answer.status, answer.headers, answer.body)


def parse_metadata_token(body: bytes, now: float) -> Token:
    """The token in the metadata server's answer; SourceProtocolError for anything else."""
    try:
        match json.loads(body):
            case {"access_token": str(text), "expires_in": int(seconds)} if text:
                return Token(Secret(text), now + seconds)
    except (ValueError, RecursionError):
        pass
    raise SourceProtocolError(
        "the metadata server answers with something that is no token", remedy="check GCE_METADATA_HOST"
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no permission, as where HOME is another user's
        return False


def _read(name: str, path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_bytes())
    except OSError as error:
        raise _broken(name, f"cannot be read: {error.strerror or type(error).__name__}") from error
    except (ValueError, RecursionError):
        raise _broken(name, "is not JSON") from None
    if not isinstance(info, dict):
        raise _broken(name, "holds no credential")
    return info


def _broken(name: str, why: str) -> UsageError:
    return UsageError(
        f"{name} {why}",
        remedy="name a service account's key, a workload identity configuration or a login file made by gcloud; "
        "unset it, or move it away, for public buckets",
    )


def _credentials_of(info: dict[str, Any], scope: str) -> Any:
    """google-auth's object for a credential file; ValueError for a type that it does not know. Opens no connection."""
    kind: Any
    match info.get("type"):
        case "service_account":
            from google.oauth2 import service_account

            kind = service_account.Credentials
            return kind.from_service_account_info(info, scopes=[scope])
        case "authorized_user":
            from google.oauth2 import credentials

            kind = credentials.Credentials  # whose own reader ignores the token_uri of files that google-auth wrote
            uri = info.get("token_uri") or _LOGIN_ENDPOINT
            secrets = {name: _text(info, name) for name in ("refresh_token", "client_id", "client_secret")}
            return kind(None, token_uri=uri, quota_project_id=info.get("quota_project_id"), **secrets)
        case "external_account":
            return _federated(info).from_info(info, scopes=[scope])
        case "external_account_authorized_user":
            from google.auth import external_account_authorized_user

            kind = external_account_authorized_user.Credentials
            return kind.from_info(info)
        case "impersonated_service_account":
            from google.auth import impersonated_credentials

            kind = impersonated_credentials.Credentials
            return kind.from_impersonated_service_account_info(info, scopes=[scope])
    raise ValueError("unknown type")


def _text(info: dict[str, Any], name: str) -> str:
    value = info[name]
    if not isinstance(value, str):
        raise TypeError(name)
    return value


def _federated(info: dict[str, Any]) -> Any:
    """google-auth's class for a workload identity: from AWS, from a program, from a file or URL."""
    if info.get("subject_token_type") == _AWS:
        from google.auth import aws

        return aws.Credentials
    if (info.get("credential_source") or {}).get("executable"):
        from google.auth import pluggable

        return pluggable.Credentials
    from google.auth import identity_pool

    return identity_pool.Credentials


def _no_token(name: str, kind: str, error: Exception) -> Unauthorized:
    """The refusal of a token endpoint, with its error code (RFC 6749, 5.2) and no other word of its answer."""
    details = error.args[1] if len(error.args) > 1 else None
    code = details.get("error") if isinstance(details, dict) else None
    said = f" ({code})" if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else ""
    return Unauthorized(f"no token is given for {name}{said}", remedy=_REMEDIES.get(kind, _REMEDIES["service_account"]))
