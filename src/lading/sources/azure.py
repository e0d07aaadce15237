"""Models in a container of Azure Blob Storage, by its REST API.

Two kinds of calls: ``{endpoint}/{container}?restype=container&comp=list&prefix=…`` lists page by page,
``{endpoint}/{container}/{blob}`` reads a range. Rules kept here:

* a file is pinned by its blob's etag (``If-Match``): later reads give those bytes or an error;
* the promise is the blob's Content-MD5, which uploads in blocks may have left out;
* only names below the prefix at a ``/`` are the model's; directories of a hierarchical namespace are no files;
* a credential goes to the storage host alone; a token that it rejects is made anew, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from lading.errors import (
    ContentError,
    LadingError,
    MalformedModel,
    ModelNotFound,
    RateLimited,
    SourceError,
    SourceProtocolError,
    SourceUnreachable,
    Unauthorized,
    UsageError,
)
from lading.model.manifest import FileEntry, Manifest
from lading.sources.answer import Answer, Response, range_header, read_range
from lading.sources.azure_account import Account, Accounts, ConnectionString
from lading.sources.azure_credentials import EntraTokens
from lading.sources.azure_wire import Blob, Page, error_code, parse_page, quoted_etag
from lading.sources.http import HttpClient
from lading.sources.interface import LIST_AGAIN, Access, PathOf, RangeReader, is_empty_range, itself, only_file
from lading.sources.member import About, Context
from lading.sources.urls import redacted
from lading.uri import ModelUri

MOST_FILES = 200_000

_PAGE_SIZE = 5000
_FORBIDDEN = {
    "AuthorizationPermissionMismatch",
    "AuthorizationResourceTypeMismatch",
    "AuthorizationServiceMismatch",
    "InsufficientAccountPermissions",
}
_R = TypeVar("_R", Answer, Response)


ABOUT = About(
    title="Azure Blob Storage",
    credentials=(
        "`AZURE_STORAGE_CONNECTION_STRING`, where it is for the account: its `AccountKey` or `SharedAccessSignature`",
        "`AZURE_STORAGE_SAS_TOKEN`, for `AZURE_STORAGE_ACCOUNT` alone where that is set",
        "`AZURE_STORAGE_KEY`, `AZURE_STORAGE_ACCOUNT_KEY`, likewise",
        "Azure's default credential chain: a service principal's secret or certificate, a workload identity, a managed "
        "identity (one try, one second), the logins of Azure CLI, Azure PowerShell and Azure Developer CLI; "
        "`AZURE_TOKEN_CREDENTIALS` narrows it",
        "none: public containers",
    ),
    endpoint="`AZURE_STORAGE_BLOB_ENDPOINT`, that of the connection string, else "
    "`https://{account}.blob.core.windows.net`; tokens of the chain go to https alone",
    pinned_by="the etag of each blob (`If-Match`)",
    checksum="MD5 of blobs that have one",
    resume="byte ranges",
    tested_against="a simulator with pages, signatures, token endpoints and identity services; Azurite by hand",
    extra="azure",
    notes=(
        "A managed identity of Service Fabric, and federation through a token proxy of AKS, are not supported",
        "Blobs in the archive tier must be rehydrated first",
    ),
)


def connect(context: Context) -> AzureSource:
    """The storage accounts that the settings open."""
    settings = context.settings
    connection = settings.azure_storage_connection_string
    tokens = EntraTokens(context.network, settings.azure_token_credentials, settings.azure_client_id, context.report)
    accounts = Accounts(
        tokens,
        ConnectionString.parse(connection) if connection else None,
        settings.azure_storage_sas_token,
        settings.azure_storage_key,
        settings.azure_storage_account,
        settings.azure_storage_blob_endpoint,
    )
    return AzureSource(context.client, accounts)


class AzureSource:
    """All storage accounts, asked through ``client``; models of more than ``most_files`` are refused."""

    in_place = False

    def __init__(self, client: HttpClient, accounts: Accounts, most_files: int = MOST_FILES) -> None:
        self._client = client
        self._accounts = accounts
        self._most_files = most_files

    def access(self, model: ModelUri) -> Access:
        """The endpoint of the model's account, and where its credential comes from."""
        account = self._account(model)
        account.credential.sign(account.endpoint, account.headers)
        return Access(redacted(account.endpoint), account.credential.name)

    def list_files(self, model: ModelUri) -> Manifest:
        """All files below the prefix, or the one the URI names, with their etags of now."""
        if model.file:
            named = self.list_objects(model, model.file, lambda name: name if name == model.file else None)
            if named.files:
                return named
        manifest = self.list_objects(model, "", itself)
        if not manifest.files:
            raise ModelNotFound(
                f"{model.model} holds no files",
                remedy="check the prefix: it names a whole directory; one blob is named "
                "az://account/container/prefix?file=name",
            )
        return only_file(manifest, model.file)

    def list_objects(self, place: ModelUri, start: str, path_of: PathOf) -> Manifest:
        """The blobs whose names below the prefix start with ``start``: see :class:`~.interface.Bucket`."""
        found = (_entry(place, blob, path_of) for blob in self._blobs(place, start))
        return Manifest.of(place, None, [entry for entry in found if entry])

    @contextmanager
    def open_range(self, file: FileEntry, start: int, end: int) -> Iterator[RangeReader]:
        """The bytes of one range of the blob at its etag."""
        if is_empty_range(file, start, end):
            yield BytesIO()
            return
        account, (_, container, prefix) = self._account(file.uri), _parts(file.uri)
        url = account.url(container, f"{prefix}{file.uri.file or ''}")
        wanted = range_header(start, end) | ({"If-Match": file.etag} if file.etag else {})
        with ExitStack() as stack:
            response = self._asked(
                account, url, wanted, lambda url, headers: stack.enter_context(self._client.open(url, headers))
            )
            response.raise_if_passing()
            etag = quoted_etag(response.headers.get("ETag")) if response.status in (200, 206) else None
            if response.status in (404, 412) or (file.etag and etag and etag != file.etag):
                raise ContentError(f"{file.uri} was replaced or deleted after it was listed", remedy=LIST_AGAIN)
            if response.status not in (200, 206, 416):
                answer = Answer(response.status, response.headers, response.read_all(), response.url)
                raise _refusal(answer, account, file.uri)
            yield read_range(response, start, end, file.size_bytes)

    def local_copy(self, file: FileEntry) -> Path | None:  # noqa: ARG002  # the port's signature
        """None: no copy is kept on this machine."""
        return None

    def _account(self, model: ModelUri) -> Account:
        return self._accounts.of(_parts(model)[0])

    def _blobs(self, place: ModelUri, start: str) -> Iterator[Blob]:
        account, (_, container, prefix) = self._account(place), _parts(place)
        query = {"restype": "container", "comp": "list", "include": "metadata", "maxresults": str(_PAGE_SIZE)}
        query |= {"prefix": f"{prefix}{start}"} if prefix or start else {}
        markers: set[str] = set()
        listed = 0
        while True:
            url = account.url(container, query=query)
            page = self._page(account, url, place)
            for blob in page.blobs:
                if not blob.name.startswith(f"{prefix}{start}"):
                    raise _no_storage(url, f"it lists {blob.name!r} below {prefix + start!r}")
                yield blob
            listed += max(1, len(page.blobs))  # so that empty pages, which Azure may send, come to an end too
            if listed > self._most_files:
                raise MalformedModel(
                    f"{place} holds more than {self._most_files} files", remedy="name the model's prefix"
                )
            if page.marker is None:
                return
            if page.marker in markers:
                raise _no_storage(url, "the pages of its listing go in a circle")
            markers.add(page.marker)
            query["marker"] = page.marker

    def _page(self, account: Account, url: str, place: ModelUri) -> Page:
        try:
            answer = self._asked(account, url, {}, self._client.fetch)
        except RateLimited as error:
            raise RateLimited(error.message, remedy="wait and start again; what was fetched is kept") from error
        except SourceUnreachable as error:
            if not _is_unknown_name(error):
                raise
            raise SourceUnreachable(
                f"there may be no storage account {account.name}: {error.message}",
                remedy=f"check the account after az://; {error.remedy}",
            ) from error
        if answer.status != 200:
            raise _refusal(answer, account, place)
        try:
            return parse_page(answer.body)
        except ValueError as error:
            raise _no_storage(url, f"it answers with {error}") from None

    def _asked(
        self, account: Account, url: str, headers: Mapping[str, str], ask: Callable[[str, Mapping[str, str]], _R]
    ) -> _R:
        """The answer to ``ask`` with a signed request, asked once more with a new token after a 401."""
        headers = {**headers, **account.headers}
        signed_url, signed = account.credential.sign(url, headers)
        answer = ask(signed_url, signed)
        if answer.status != 401 or account.credential.name is None:
            return answer
        next_url, renewed = account.credential.sign(url, headers, rejected=signed)
        return ask(next_url, renewed) if renewed != signed else answer


def _entry(place: ModelUri, blob: Blob, path_of: PathOf) -> FileEntry | None:
    """The file that a blob of a listing is; None for a directory, and where ``path_of`` says so.

    Raises UnsafePath for its name, MalformedModel where its bytes are stored compressed, SourceError where they are
    archived.
    """
    below = blob.name.removeprefix(_parts(place)[2])
    path = path_of(below) if below and not blob.is_directory else None
    if path is None:
        return None
    uri = place.with_file(below)
    if blob.encoding not in ("", "identity"):
        raise MalformedModel(
            f"{uri} is stored compressed: the bytes that were listed are not the file's own",
            remedy="upload it again without a Content-Encoding",
        )
    if blob.is_archived:
        raise _archived(uri)
    return FileEntry(path, blob.size_bytes, uri, blob.md5, blob.etag)


def _parts(model: ModelUri) -> tuple[str, str, str]:
    """The account, the container, and what the names of the model's blobs start with."""
    account, _, rest = model.location.partition("/")
    container, _, prefix = rest.partition("/")
    return account, container, f"{prefix}/" if prefix else ""


def _is_unknown_name(error: SourceUnreachable) -> bool:
    """Whether a host's name could not be resolved: an account's name that does not exist is no name."""
    from urllib3.exceptions import NameResolutionError

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, NameResolutionError):
        cause = cause.__cause__
    return cause is not None


def _refusal(answer: Answer, account: Account, target: ModelUri) -> LadingError:
    """The error for an answer that is no answer, by its status and code."""
    code, container = error_code(answer.headers, answer.body), "/".join(target.location.split("/")[:2])
    said = f"HTTP {answer.status}{f', {code}' if code else ''}"
    match code, answer.status:
        case "ContainerNotFound" | "ContainerBeingDeleted" | "InvalidResourceName", _:
            return ModelNotFound(f"there is no container az://{container} ({said})", remedy="check the name")
        case "BlobArchived" | "BlobBeingRehydrated", _:
            return _archived(target)
        case "AccountIsDisabled", _:
            return SourceError(f"the storage account {account.name} is disabled", remedy="enable it, or use another")
        case _, 401 | 403 | 404 | 409 if account.credential.name is None:
            return _refused_nobody(account, container, said)
        case _, 401 | 403:
            return _refused_credential(code, account, container, said)
        case _, 404:
            return ModelNotFound(f"there is no container az://{container} ({said})", remedy="check the name")
    return _no_storage(account.url(container.partition("/")[2]), f"it answers {said}")


def _refused_nobody(account: Account, container: str, said: str) -> LadingError:
    """The error for what nobody may read; for private containers Azure also says that they are not there."""
    credential = account.credential
    if isinstance(credential, EntraTokens) and credential.lacks_library:
        return UsageError(
            f"az://{container} is not public ({said}), and azure-identity, which finds Azure's credentials, is not "
            "installed",
            remedy=credential.if_rejected,
        )
    return Unauthorized(
        f"az://{container} is not public or does not exist ({said}), and no Azure credentials were found",
        remedy=credential.if_rejected,
    )


def _refused_credential(code: str, account: Account, container: str, said: str) -> Unauthorized:
    """The error for what Azure has against a credential."""
    credential = account.credential
    match code:
        case _ if code in _FORBIDDEN:
            what, remedy = f"may not read az://{container}", credential.if_forbidden
        case "KeyBasedAuthenticationNotPermitted":
            what, remedy = (
                "is not accepted, since the account takes no keys",
                "unset it, and use Microsoft Entra: run az login, or give this machine or workload an identity",
            )
        case "AuthorizationFailure" | "AuthorizationSourceIPMismatch" | "AuthorizationProtocolMismatch":
            what, remedy = (
                "is not let in from here",
                f"allow this machine in the network rules of {account.name}; {credential.if_rejected}",
            )
        case _:
            what, remedy = "is rejected", credential.if_rejected
    return Unauthorized(f"{redacted(account.endpoint)}: {credential.name} {what} ({said})", remedy=remedy)


def _archived(target: ModelUri) -> SourceError:
    return SourceError(
        f"{target} is in the archive tier and cannot be read",
        remedy="rehydrate it first: az storage blob set-tier --tier Hot, which takes hours",
    )


def _no_storage(url: str, why: str) -> SourceProtocolError:
    return SourceProtocolError(
        f"{redacted(url)} does not behave as Azure Blob Storage does: {why}",
        remedy="check AZURE_STORAGE_BLOB_ENDPOINT where it is set, and that no login page answers in its place",
    )
