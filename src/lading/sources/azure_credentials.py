"""Tokens of Microsoft Entra for Azure Blob Storage: the members of Azure's default credential chain, in its order.

A service principal's secret or certificate, a workload identity, a managed identity, the logins of Azure's command-line
programs; never a browser. Rules kept here:

* azure-identity knows how each gets its token, and reads the variables of each; what it sends goes the way of every
  source's requests (its ``transport``), so proxies, authorities and time-outs are the same;
* its ``DefaultAzureCredential`` is not used: it has one error for a member that is not set up, which is passed over,
  and for one that is refused, which ends the search;
* plain http is the machine's own identity service: asked past any proxy, and looked for once: one try, one second;
* a token is made anew, by a new member with an empty cache, before it ends and when storage rejects it;
* an error names the member and Entra's error number, never what was sent or answered.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from types import ModuleType
from typing import Any
from urllib.parse import urlencode

from lading.errors import LadingError, SourceProtocolError, SourceUnreachable, Unauthorized, UsageError
from lading.events import Report, ignore
from lading.secret import Secret
from lading.sources.answer import Answer
from lading.sources.fault import Limits
from lading.sources.http import HttpClient, Network
from lading.sources.urls import is_http_url, redacted

_SCOPE = "https://storage.azure.com/.default"
_MARGIN_SECONDS = 300.0
_DETECTION = Limits(connect_seconds=1.0, read_seconds=1.0, tries=1)
_MACHINE = Limits(connect_seconds=1.0)
_MACHINE_PATH = "/metadata/identity/oauth2/token"  # refuses requests without the header "Metadata"
_ENTRA_CODE = re.compile(r"AADSTS\d{3,8}")
_LEAVE_OUT = "AZURE_TOKEN_CREDENTIALS=prod leaves developers' logins out"
_INSTALL = 'pip install "lading[azure]"'


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of the chain: its class in azure-identity, its group, and what its owner does when it is refused."""

    kind: str
    group: str
    remedy: str


_CHAIN = (
    _Member(
        "EnvironmentCredential",
        "prod",
        "check AZURE_TENANT_ID, AZURE_CLIENT_ID, and AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH",
    ),
    _Member(
        "WorkloadIdentityCredential",
        "prod",
        "check AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_FEDERATED_TOKEN_FILE, and the federated credential of the "
        "identity",
    ),
    _Member(
        "ManagedIdentityCredential",
        "prod",
        "assign an identity to this machine, and name a user-assigned one with AZURE_CLIENT_ID",
    ),
    _Member("AzureCliCredential", "dev", f"log in again: az login; {_LEAVE_OUT}"),
    _Member("AzurePowerShellCredential", "dev", f"log in again: Connect-AzAccount; {_LEAVE_OUT}"),
    _Member("AzureDeveloperCliCredential", "dev", f"log in again: azd auth login; {_LEAVE_OUT}"),
)


@dataclass(frozen=True, slots=True)
class Token:
    """What the storage host is sent, and the time (as :func:`time.time` has it) when that ends."""

    text: Secret
    expires_at: float

    @property
    def headers(self) -> dict[str, str]:
        """The headers that hold it, in clear."""
        return {"Authorization": f"Bearer {self.text.reveal()}"}


class EntraTokens:
    """The tokens of the chain's first member that is set up, looked for when first needed; none where none is.

    ``chain`` narrows it as ``AZURE_TOKEN_CREDENTIALS`` does, UsageError where it names nothing of it; ``client_id``
    names an identity. A :class:`~lading.sources.azure_account.Credential`.
    """

    def __init__(
        self,
        network: Network,
        chain: str | None = None,
        client_id: str | None = None,
        report: Report = ignore,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._network = network
        self._chain = _narrowed(chain)
        self._client_id = client_id
        self._report = report
        self._clock = clock
        self._lock = Lock()
        self._looked = False
        self._found: _Member | None = None
        self._token: Token | None = None
        self.lacks_library = False

    @property
    def name(self) -> str | None:
        """The member that gives the tokens, once something was signed; None where there is none."""
        return f"the token of {self._found.kind}" if self._found else None

    @property
    def if_rejected(self) -> str:
        """What to do when no token is accepted."""
        if self.lacks_library:
            return f"{_INSTALL}, or set AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_KEY"
        if self._found:
            return self._found.remedy
        return (
            "set AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_KEY, run az login, or give "
            "this machine or workload an identity"
        )

    @property
    def if_forbidden(self) -> str:
        """What to do when tokens are accepted and their owner may not read."""
        return 'grant its identity the role "Storage Blob Data Reader" on the account or the container'

    def sign(
        self, url: str, headers: Mapping[str, str], rejected: Mapping[str, str] | None = None
    ) -> tuple[str, dict[str, str]]:
        """The headers with a token that is good for minutes; as they are offline, and where no member is set up.

        Raises Unauthorized or UsageError where a member that is set up gives none, another SourceError where its
        service cannot be asked.
        """
        if self._network.offline:
            return url, dict(headers)
        with self._lock:
            token = self._token
            ends = token is None or token.expires_at - self._clock() < _MARGIN_SECONDS
            if ends or (token and rejected and token.headers["Authorization"] == rejected.get("Authorization")):
                token = self._token = self._next_token()
        return url, {**headers, **(token.headers if token else {})}

    def _next_token(self) -> Token | None:
        if self._found:
            token = self._ask(self._found)
            if token is None:
                raise _refused(self._found, "")
            return token
        for member in () if self._looked else self._chain:
            token = self._ask(member)
            if token:
                self._found = member
                return token
        self._looked = True
        return None

    def _ask(self, member: _Member) -> Token | None:
        """A new token of the member; None where it is not set up."""
        try:
            identity = _azure_identity()
            from azure.core.exceptions import AzureError
        except ImportError:
            self.lacks_library = True
            return None
        transport = _Transport(self._network, self._report, is_there=self._found is member)
        try:
            got = _make(identity, member.kind, transport, self._client_id).get_token(_SCOPE)
        except identity.CredentialUnavailableError:
            if transport.failure:
                raise transport.failure from None
            return None
        # Without their cause, here and below: azure-identity's texts quote what services and programs said.
        except AzureError as error:
            raise transport.failure or _refused(member, str(error)) from None
        except (ValueError, TypeError, KeyError, AttributeError, OSError):
            raise transport.failure or UsageError(
                f"Azure's {member.kind} is set up in a way that azure-identity cannot use", remedy=member.remedy
            ) from None
        return Token(Secret(got.token), float(got.expires_on))


class _Transport:
    """What azure-identity sends its requests with (azure-core's ``HttpTransport``). No redirect is followed.

    ``is_there``: the machine's identity service answered before. ``failure`` is what the last request failed with,
    since azure-identity may have no more than its text.
    """

    def __init__(self, network: Network, report: Report, *, is_there: bool) -> None:
        self._network = network
        self._report = report
        self._is_there = is_there
        self.failure: LadingError | None = None

    def send(self, request: Any, **_options: object) -> _AzureAnswer:
        """The answer to a request of azure-core; raises a SourceError."""
        url = str(request.url)
        if not is_http_url(url):
            raise SourceProtocolError(f"not a URL of a token endpoint: {redacted(url)}")
        network = self._network
        if url.startswith("http:"):
            self._find(url)
            network = Network(limits=_MACHINE, offline=network.offline)
        content = request.content if hasattr(request, "content") else request.body  # before azure-identity 1.26
        body = urlencode(content) if isinstance(content, dict) else content
        try:
            answer = self._sent(network, request.method, url, dict(request.headers), body)
        except LadingError as error:
            self.failure = error
            raise
        self.failure = None
        return _AzureAnswer(request, answer)

    def _find(self, url: str) -> None:
        """Raise SourceUnreachable where Azure's service does not answer: no failure, most machines have none."""
        if self._is_there:
            return
        limits = Network(limits=_DETECTION, offline=self._network.offline)
        answer = self._sent(limits, "GET", url.partition("?")[0], {})
        if _MACHINE_PATH in url and answer.status not in (400, 401):  # other clouds' metadata is at the same address
            raise SourceUnreachable(f"{redacted(url)} is no identity service of Azure (HTTP {answer.status})")
        self._is_there = True

    def _sent(
        self, network: Network, method: str, url: str, headers: Mapping[str, str], body: bytes | str | None = None
    ) -> Answer:
        client = HttpClient(network, report=self._report)
        try:
            return client.send(method, url, headers, body.encode() if isinstance(body, str) else body)
        finally:
            client.close()

    def open(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""

    def sleep(self, duration: float) -> None:
        """Not asked for: requests are made again by our own client."""

    def __enter__(self) -> _Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _AzureAnswer:
    """An answer with the names that azure-core and MSAL read."""

    def __init__(self, request: Any, answer: Answer) -> None:
        self.request = request
        self.status_code = answer.status
        self.reason = ""
        self.headers = answer.headers
        self.content_type = answer.headers.get("Content-Type", "text/plain")  # not JSON, which azure-core would take
        self.content = answer.body

    def text(self, encoding: str | None = None) -> str:
        """The body as text."""
        return self.content.decode(encoding or "utf-8-sig", "replace")

    def body(self) -> bytes:
        """The body."""
        return self.content


def _narrowed(chain: str | None) -> list[_Member]:
    """The members that ``AZURE_TOKEN_CREDENTIALS`` names, in any case of letters; all for None."""
    wanted = (chain or "").strip().lower()
    found = [each for each in _CHAIN if wanted in ("", each.group, each.kind.lower())]
    if not found:
        raise UsageError(
            f"AZURE_TOKEN_CREDENTIALS={chain!r} names no credential that Lading asks",
            remedy=f"set it to prod, dev, {', '.join(each.kind for each in _CHAIN)}, or unset it",
        )
    return found


def _azure_identity() -> ModuleType:
    """The library, quiet: what it would log is told by the errors here, which do not quote answers."""
    from azure import identity

    for name in ("azure", "msal"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return identity


def _make(identity: ModuleType, kind: str, transport: _Transport, client_id: str | None) -> Any:
    """azure-identity's object for a member. Opens no connection."""
    network = {"transport": transport, "retry_total": 0}
    match kind:
        case "EnvironmentCredential":
            # Discovery asks login.microsoftonline.com which other names the authority has; ours is set by its user.
            return identity.EnvironmentCredential(disable_instance_discovery=True, **network)
        case "WorkloadIdentityCredential":
            try:
                return identity.WorkloadIdentityCredential(client_id=client_id, **network)
            except ValueError:  # its variables are not set
                raise identity.CredentialUnavailableError("not set up") from None
        case "ManagedIdentityCredential":
            return identity.ManagedIdentityCredential(client_id=client_id, **network)
    return getattr(identity, kind)()


def _refused(member: _Member, text: str) -> Unauthorized:
    """The refusal of a member, with Entra's error number and no other word of its answer."""
    code = _ENTRA_CODE.search(text)
    said = f" ({code[0]})" if code else ""
    return Unauthorized(f"no token is given for Azure's {member.kind}{said}", remedy=member.remedy)
