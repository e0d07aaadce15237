"""Models of NVIDIA NGC, or of a proxy that speaks its API (``NGC_CLI_API_URL``): ``ngc://org/[team/]model:version``.

Three kinds of calls. ``…/versions/{version}`` says whether the version is complete; ``…/versions/{version}/files``
lists it page by page, with the SHA-256 of each file where NGC knows it; ``…/{version}/files?path=`` gives a signed link
to storage, which is kept and used until it is refused. Rules kept here:

* without a key, models open to guests are asked for under their public paths;
* with a key, the token is that of :mod:`lading.sources.ngc_credentials`; one that is refused is replaced once;
* storage gets no credentials; errors name the variable that the key came from, never the key;
* refusals are told apart by status; NGC's own sentence is shown, never searched.
"""

from __future__ import annotations

import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from urllib.parse import quote, urlencode
from uuid import uuid4

from lading.digest import Digest
from lading.errors import (
    ContentError,
    FileNotFoundAtSource,
    GatedModel,
    ModelNotFound,
    RateLimited,
    RevisionNotFound,
    SourceError,
    SourceProtocolError,
    SourceUnreachable,
    Unauthorized,
)
from lading.model.manifest import FileEntry, Manifest
from lading.secret import Secret
from lading.sources.answer import Answer, Response, is_strong_etag, range_header, read_range, strong_etag
from lading.sources.http import HttpClient
from lading.sources.interface import (
    LARGEST_FILE_BYTES,
    LIST_AGAIN,
    Access,
    PassingFault,
    RangeReader,
    is_empty_range,
    nearest,
    only_file,
    usable_token,
)
from lading.sources.member import About, Context
from lading.sources.ngc_cache import NgcCache
from lading.sources.ngc_credentials import KEYS_PAGE, Get, NgcLogin, said
from lading.sources.quoting import quoted
from lading.sources.urls import endpoint_origin, headers_after_redirect, redacted
from lading.uri import ModelUri

MOST_FILES = 200_000
PAGE_SIZE = 1000
CATALOGUE = "https://catalog.ngc.nvidia.com"

_LOOKS_AT_ONCE = 8
_REFUSED_LINK = {400, 401, 403, 404, 410}  # 400 is how S3 answers when the credentials that signed the link expired


ABOUT = About(
    title="NVIDIA NGC, or a proxy that speaks its API",
    credentials=("`NGC_CLI_API_KEY`", "`NGC_API_KEY`", "none: as a guest, models open to guests"),
    endpoint="`NGC_CLI_API_URL`, else `https://api.ngc.nvidia.com`; legacy keys are exchanged at `NGC_CLI_AUTH_URL`, "
    "else `https://authn.nvidia.com`",
    pinned_by="the version, which is required; NGC never changes a complete one",
    checksum="SHA-256 where NGC lists it; files without one are pinned by storage's etag",
    resume="byte ranges; signed links are renewed",
    tested_against="a simulator that the official `ngcsdk` downloads from",
    notes=(
        "Personal and service keys (`nvapi-…`) and JWTs are sent as they are, legacy keys are exchanged for tokens",
        "Files that a NIM left on the volume (`$NIM_CACHE_PATH/ngc/hub`) are verified and taken instead of downloaded",
    ),
)


def connect(context: Context) -> NgcSource:
    """The registry that the settings name."""
    settings = context.settings
    cache = NgcCache(context.volume / "ngc" / "hub")
    return NgcSource(context.client, settings.ngc_api_url, settings.ngc_auth_url, settings.ngc_api_key, cache=cache)


class NgcSource:
    """The registry at ``api_url``, asked with ``key``, exchanged at ``auth_url`` where it has to be, or as a guest."""

    in_place = False

    def __init__(
        self,
        client: HttpClient,
        api_url: str,
        auth_url: str,
        key: Secret | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        cache: NgcCache | None = None,
    ) -> None:
        endpoint_origin(api_url, "NGC_CLI_API_URL", "NGC_API_KEY")
        endpoint_origin(auth_url, "NGC_CLI_AUTH_URL", "NGC_API_KEY")
        self._client = client
        self._api_url = api_url.rstrip("/")
        usable = usable_token(key, key.name) if key else None
        self._login = NgcLogin(usable, key.name, auth_url, clock) if key and usable else None
        self._cache = cache
        self._guest = str(uuid4())
        self._links: dict[ModelUri, str] = {}

    def access(self, model: ModelUri) -> Access:  # noqa: ARG002  # the same for all models
        """The API, and the name of the key."""
        return Access(redacted(self._api_url), self._login.name if self._login else None)

    def list_files(self, model: ModelUri) -> Manifest:
        """All files of the model's version, or the one it names; a version that is still uploaded is not found."""
        place = _Place.of(model)
        url = f"{self._model_url(place)}/versions/{quote(place.version, safe='')}"
        match self._object(self._ask(url, model.model), url).get("modelVersion"):
            case {"status": "UPLOAD_COMPLETE"}:
                files = [self._entry(model.model, item) for item in self._items(f"{url}/files", model.model)]
                return self._pinned(only_file(Manifest.of(model, model.revision, files), model.file))
            case {"status": str(status)}:
                raise RevisionNotFound(
                    f"{model.model} is not complete at NGC: its status is {quoted(status)}",
                    remedy="name another version, or try again when its publisher has finished the upload",
                )
        raise self._not_ngc(url, "it tells no status of the version")

    @contextmanager
    def open_range(self, file: FileEntry, start: int, end: int) -> Iterator[RangeReader]:
        """The bytes of one range, from the storage that NGC has signed a link to."""
        if is_empty_range(file, start, end):
            yield BytesIO()
            return
        with ExitStack() as stack:
            response = self._opened(stack, file.uri, range_header(start, end))
            response.raise_if_passing()
            if _is_of_storage(file.etag) and strong_etag(response.headers) not in (None, file.etag):
                raise ContentError(f"{file.uri} was replaced after it was listed", remedy=LIST_AGAIN)
            yield read_range(response, start, end, file.size_bytes)

    def local_copy(self, file: FileEntry) -> Path | None:
        """The file as a NIM left it on the volume."""
        return self._cache.find(file.uri, file.uri.file or file.path) if self._cache else None

    def _pinned(self, manifest: Manifest) -> Manifest:
        """The manifest with storage's etags for files whose digest NGC does not tell: nothing else would pin them."""
        with ThreadPoolExecutor(_LOOKS_AT_ONCE, "ngc-list") as threads:
            return replace(manifest, files=tuple(threads.map(self._with_etag, manifest.files)))

    def _with_etag(self, file: FileEntry) -> FileEntry:
        if file.digest or not file.size_bytes:
            return file
        link = self._links[file.uri] = self._link(file.uri, self._client.fetch)
        answer = self._client.peek(link, headers_after_redirect({}, self._api_url, link))
        etag = strong_etag(answer.headers) if answer.status in (200, 206) else None
        return replace(file, etag=etag or file.etag)

    def _items(self, url: str, model: ModelUri) -> Iterator[object]:
        page, pages, listed = 0, 1, 0
        while page < pages:
            query = f"page-size={PAGE_SIZE}" + (f"&page-number={page}" if page else "")
            found = self._object(self._ask(f"{url}?{query}", model), url)
            match found:
                case {"modelFiles": list(items)}:
                    yield from items
                    listed += len(items)
                case {"modelFiles": None} | {"requestStatus": _}:
                    pass  # how NGC writes a page without files
                case _:
                    raise self._not_ngc(url, "it lists no files")
            match found.get("paginationInfo"):
                case {"totalPages": int(total)}:
                    pages = total
            page += 1
            if listed > MOST_FILES or pages > MOST_FILES:
                raise self._not_ngc(url, f"it lists more than {MOST_FILES} files or pages")

    def _entry(self, model: ModelUri, item: object) -> FileEntry:
        try:
            return parse_entry(model, item)
        except ValueError as error:
            raise self._not_ngc(self._api_url, f"for {model} it lists {error}") from None

    def _opened(self, stack: ExitStack, file: ModelUri, wanted: Mapping[str, str]) -> Response:
        kept = self._links.get(file)
        if kept:
            response = self._open_link(stack, kept, file, wanted)
            if response.status not in _REFUSED_LINK:
                return response
            response.close()
        link = self._links[file] = self._link(file, self._client.fetch_once)
        response = self._open_link(stack, link, file, wanted)
        if response.status in _REFUSED_LINK:
            self._links.pop(file, None)
            raise PassingFault(
                f"{redacted(response.url)}, where NGC sent us for {file.file}, answers HTTP {response.status}",
                remedy="check this machine's clock: links to storage are valid for a short time only",
                status=response.status,
            )
        return response

    def _open_link(self, stack: ExitStack, link: str, file: ModelUri, wanted: Mapping[str, str]) -> Response:
        try:
            return stack.enter_context(self._client.open(link, headers_after_redirect(wanted, self._api_url, link)))
        except SourceUnreachable:
            self._links.pop(file, None)  # NGC may name another storage host by the next try
            raise

    def _link(self, file: ModelUri, get: Get) -> str:
        path, url = file.file or "", self._links_url(_Place.of(file))
        answer = self._ask(f"{url}?{urlencode({'path': path})}", file, get)
        match self._object(answer, url):
            case {"urls": [str(link)]}:
                return link
            case {"urls": list(links), "filepath": list(paths)} if path in paths[: len(links)]:
                named: object = links[paths.index(path)]
                if isinstance(named, str):
                    return named
        raise self._not_ngc(url, f"it gives no link to {path}")

    def _model_url(self, place: _Place) -> str:
        """Where the API describes the model: guests have a path of their own."""
        path = f"{place.path}/models/{place.name}" if self._login else f"models/{place.location}"
        return f"{self._api_url}/v2/{path}"

    def _links_url(self, place: _Place) -> str:
        """Where the API gives links to storage: guests have yet another path."""
        path = f"{place.path}/models/{place.name}" if self._login else f"models/{place.path}/{place.name}"
        return f"{self._api_url}/v2/{path}/{quote(place.version, safe='')}/files"

    def _ask(self, url: str, model: ModelUri, get: Get | None = None) -> Answer:
        """The answer 200 to a call of the API; asked again, with a new token, where the one in use is refused."""
        get, place = get or self._client.fetch, _Place.of(model)
        try:
            answer = self._authorized(url, place, get)
        except RateLimited as error:
            raise RateLimited(error.message, remedy="wait and start again; what was fetched is kept") from error
        if answer.status != 200:
            raise self._refusal(answer, model)
        return answer

    def _authorized(self, url: str, place: _Place, get: Get) -> Answer:
        if self._login is None:
            return get(url, {"X-NGC-Guest-Token": self._guest})
        token = self._login.token(place.scopes, get)
        answer = get(url, {"Authorization": f"Bearer {token.reveal()}"})
        if answer.status == 401 and self._login.forget(token):
            token = self._login.token(place.scopes, get)
            answer = get(url, {"Authorization": f"Bearer {token.reveal()}"})
        return answer

    def _object(self, answer: Answer, url: str) -> dict[str, object]:
        try:
            return answer.json(dict)
        except ValueError as error:
            raise self._not_ngc(url, f"it answers with {error}") from None

    def _not_ngc(self, url: str, why: str) -> SourceProtocolError:
        return SourceProtocolError(
            f"{redacted(url)} does not behave as NGC does: {why}",
            remedy=f"check that NGC_CLI_API_URL={self._api_url} is NGC or a proxy of it, "
            "and that no login page answers in its place",
        )

    def _refusal(self, answer: Answer, model: ModelUri) -> SourceError:
        """The error for an answer of the API that is no answer, by its status."""
        login, place = self._login, _Place.of(model)
        why = login.said(answer) if login else said(answer)
        match answer.status:
            case 401 | 403 if not login:
                return Unauthorized(
                    f"{model.model} is not open to guests, and no key is set{why}",
                    remedy=f"set NGC_API_KEY to a key of an account that may read it ({KEYS_PAGE})",
                )
            case 401 if login:
                return login.rejected(self._api_url, answer)
            case 403 if login:
                return Unauthorized(
                    f"{self._api_url} does not let {login.name} read {model.model}{why}",
                    remedy=f"set {login.name} to a key of a member of {place.group} with the service NGC Catalog or "
                    f"Private Registry; some models need a subscription: see {place.page}",
                )
            case 412:
                account = f"the account of {login.name}" if login else "an account, and set NGC_API_KEY to a key of it"
                return GatedModel(
                    f"the terms of {model.model} are not accepted{why}",
                    remedy=f"accept them at {place.page} with {account}; then start again",
                )
            case 404 if model.file:
                message = f"{model.model} has no file {model.file!r}"
                return FileNotFoundAtSource(message, remedy=LIST_AGAIN)
            case 404:
                return self._not_found(place)
        return self._not_ngc(answer.url, f"it answers HTTP {answer.status}{why}")

    def _not_found(self, place: _Place) -> SourceError:
        """Whether the version is missing or the model, as its list of versions tells."""
        url = f"{self._model_url(place)}/versions"
        try:
            answer = self._authorized(f"{url}?page-size={PAGE_SIZE}", place, self._client.fetch_once)
            names = version_names(self._object(answer, url)) if answer.status == 200 else None
        except SourceError:
            names = None
        if names is None:
            hidden = f"{self._login.name} must be of an account that can see it" if self._login else "set NGC_API_KEY"
            return ModelNotFound(
                f"{self._api_url} has no model {place.location}",
                remedy=f"check org, team and name; if the model is private, {hidden}",
            )
        likely = list(dict.fromkeys(nearest(place.version, names) + names))
        more = ", …" if len(likely) > 8 else ""
        remedy = f"it has {', '.join(likely[:8])}{more}" if likely else "the model has no versions yet"
        return RevisionNotFound(f"ngc://{place.location} has no version {place.version!r}", remedy=remedy)


@dataclass(frozen=True, slots=True)
class _Place:
    """The parts of a location. Only ``version`` has to be quoted in a URL: it may hold ``/`` and ``+``."""

    org: str
    team: str | None
    name: str
    version: str

    @classmethod
    def of(cls, model: ModelUri) -> _Place:
        """The place that a location names. Locations without a version are not parsed (:mod:`lading.uri`)."""
        org, *teams, name = model.location.split("/")
        return cls(org, teams[0] if teams else None, name, model.revision or "")

    @property
    def location(self) -> str:
        """``org/[team/]name``."""
        return "/".join(part for part in (self.org, self.team, self.name) if part)

    @property
    def path(self) -> str:
        """Org and team, as most paths of the API write them."""
        return f"org/{self.org}/team/{self.team}" if self.team else f"org/{self.org}"

    @property
    def group(self) -> str:
        """Org and team, in words."""
        return f"org {self.org}, team {self.team}," if self.team else f"org {self.org}"

    @property
    def page(self) -> str:
        """The version's page in the catalogue, where terms are accepted."""
        of_team = f"/teams/{self.team}" if self.team else ""
        return f"{CATALOGUE}/orgs/{self.org}{of_team}/models/{self.name}?{urlencode({'version': self.version})}"

    @property
    def scopes(self) -> str:
        """The part of a query that asks for a token of this org, and team."""
        org = f"group/ngc:{self.org}"
        return f"scope={org}&scope={org}/{self.team}" if self.team else f"scope={org}"


def parse_entry(model: ModelUri, item: object) -> FileEntry:
    """The file that one element of ``modelFiles`` describes, with its digest where NGC tells one.

    Raises ValueError, whose text completes "it lists …", for an element of another shape, UnsafePath for its name.
    """
    match item:
        case {"path": str(path), "sizeInBytes": int(size_bytes), **rest}:
            pass
        case _:
            raise ValueError("something that is no file")
    if type(size_bytes) is not int or not 0 <= size_bytes < LARGEST_FILE_BYTES:
        raise ValueError(f"{path!r} with a size of {size_bytes!r}")
    created = rest.get("createdDate")
    etag = created if isinstance(created, str) else None
    promised = rest.get("sha256_base64")
    if not promised:
        return FileEntry(path, size_bytes, model.with_file(path), etag=etag)
    try:
        digest = Digest("sha256", b64decode(str(promised), validate=True).hex())
    except ValueError:
        raise ValueError(f"{path!r} with the SHA-256 {str(promised)[:80]!r}") from None
    return FileEntry(path, size_bytes, model.with_file(path), digest, etag)


def _is_of_storage(etag: str | None) -> bool:
    """Whether it is an etag of storage, not the date that NGC lists."""
    return etag is not None and is_strong_etag(etag)


def version_names(listing: Mapping[str, object]) -> list[str]:
    """The versions in an answer of the versions API, however malformed."""
    members = listing.get("modelVersions")
    found = [each.get("versionId") for each in members if isinstance(each, dict)] if isinstance(members, list) else []
    return [quoted(name) for name in found if isinstance(name, str)]
