"""Models of ModelScope: modelscope.cn, modelscope.ai, or a private site that speaks their API.

``/api/v1/models/{model}/repo/files`` lists a model with the SHA-256 of each file and, as ``Revision``, the commit that
last changed it; ``…/repo?Revision=&FilePath=`` sends a file's bytes or redirects to storage. Rules kept here:

* each file is read at the commit that last changed it, so that it never changes after it was listed; the model's commit
  is told by its first digits alone, and found in full among those of its files;
* an answer of 3000 entries was cut off without a word: the model is listed again, directory by directory;
* a revision that is not there is answered with 200 and no files: names are looked up in ``…/revisions``;
* the token goes, as header and as cookie, to the endpoint's scheme, host and port, and nowhere else;
* refusals are told apart by status, HTTP's or the body's ``Code``; the site's own sentence is shown, never searched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, urlencode

from lading.digest import Digest
from lading.errors import (
    FileNotFoundAtSource,
    MalformedModel,
    ModelNotFound,
    OfflineError,
    RateLimited,
    RevisionNotFound,
    SourceError,
    SourceProtocolError,
    SourceUnreachable,
    Unauthorized,
)
from lading.events import Note, Report, ignore
from lading.model.manifest import FileEntry, Manifest
from lading.secret import Secret
from lading.sources.answer import Answer, Response, file_bytes, range_header
from lading.sources.http import HttpClient
from lading.sources.interface import (
    LARGEST_FILE_BYTES,
    LIST_AGAIN,
    Access,
    RangeReader,
    nearest,
    only_file,
    usable_token,
)
from lading.sources.links import LinkedFiles
from lading.sources.member import About, Context
from lading.sources.modelscope_cache import ModelScopeCache, cache_roots
from lading.sources.quoting import it_says
from lading.sources.urls import endpoint_origin, origin, redacted
from lading.uri import ModelUri

MOST_ENTRIES = 400_000
CUT_OFF_AT = 3000

_DENIALS = 3
_COMMIT = re.compile(r"[0-9a-f]{40}")
_EMPTY = Digest.of(b"")
_COMMIT_START = re.compile(r"[0-9a-f]{7,40}")
_IN_COOKIES = "!#$&'()*+/:<=>?@[]^`{|}~"


ABOUT = About(
    title="ModelScope, its international site or a private one",
    credentials=("`MODELSCOPE_API_TOKEN`", "none: public models"),
    endpoint="`MODELSCOPE_ENDPOINT`, else `https://www.modelscope.cn`",
    pinned_by="the commit that last changed each file",
    checksum="SHA-256 where the site lists it",
    resume="byte ranges",
    tested_against="a simulator that the official `modelscope` and `modelscope_hub` clients download from",
    notes=(
        "An existing cache (`MODELSCOPE_CACHE`, else `~/.cache/modelscope`) is read, never written, as Hugging Face's "
        "is",
    ),
)


def connect(context: Context) -> ModelScopeSource:
    """The site that the settings name."""
    settings = context.settings
    caches = [ModelScopeCache(root) for root in cache_roots(settings.modelscope_cache, context.home)]
    endpoint, token = settings.modelscope_endpoint, settings.modelscope_api_token
    return ModelScopeSource(context.client, endpoint, token, caches, context.report)


class ModelScopeSource:
    """The site at ``endpoint``, asked with ``token`` or anonymously; ``caches`` are ModelScope caches to read from."""

    in_place = False

    def __init__(
        self,
        client: HttpClient,
        endpoint: str,
        token: Secret | None = None,
        caches: Sequence[ModelScopeCache] = (),
        report: Report = ignore,
    ) -> None:
        self._client = client
        self._endpoint = endpoint.rstrip("/")
        self._origin = endpoint_origin(self._endpoint, "MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN")
        self._token = usable_token(token, "MODELSCOPE_API_TOKEN")
        self._files = LinkedFiles(client, self._origin, self._headers)
        self._caches = caches
        self._report = report

    def access(self, model: ModelUri) -> Access:  # noqa: ARG002  # the same for all models
        """The endpoint, and the token's name."""
        return Access(redacted(self._endpoint), self._token.name if self._token else None)

    def list_files(self, model: ModelUri) -> Manifest:
        """All files of the model, or the one it names, each at the commit that its revision stands for now.

        Offline, and with a warning when the site cannot be reached: from a ModelScope cache that has them.
        """
        if self._client.offline:
            return self._cached(model)
        try:
            return only_file(replace(self._listed(model.model), source=model), model.file)
        except SourceUnreachable as error:
            try:
                cached = self._cached(model)
            except OfflineError:
                raise error from None
            self._report(Note(f"{error.message}; taking {model} as the ModelScope cache has it", "WARNING"))
            return cached

    @contextmanager
    def open_range(self, file: FileEntry, start: int, end: int) -> Iterator[RangeReader]:
        """The bytes of one range, from storage where the site redirects there."""

        def refusal(answer: Response) -> SourceError:
            return self._refusal(answer.status, "", file.uri)

        with self._files.open_range(file, self._url_of(file.uri), start, end, refusal) as body:
            yield body

    def local_copy(self, file: FileEntry) -> Path | None:
        """The file in a ModelScope cache, by its name and size; None where no digest can tell whether it is the one."""
        return next((path for cache in self._caches if (path := cache.find(file))), None)

    def _listed(self, model: ModelUri) -> Manifest:
        """The model as a whole."""
        revision = model.effective_revision or "master"
        latest, items = self._first_page(model, revision)
        is_commit = _COMMIT.fullmatch(revision) is not None
        commit = head_commit(latest, [revision, *commits_of(items)])
        names = self._revisions(model) if not items or (model.revision and not is_commit) else []
        is_other = commit not in (None, revision) if is_commit else bool(names) and revision not in names
        if not items or is_other:
            raise self._no_revision(model, names or self._revisions(model))
        at = commit if commit and _COMMIT.fullmatch(commit) else revision
        entries = (self._entry(model, item, at) for item in self._tree(model, at, items))
        return Manifest.of(model, commit, [entry for entry in entries if entry])

    def _first_page(self, model: ModelUri, revision: str) -> tuple[object, list[object]]:
        try:
            return self._page(model, revision)
        except ModelNotFound as error:
            if names := self._revisions(model):
                raise self._no_revision(model, names) from error
            raise

    def _tree(self, model: ModelUri, at: str, items: list[object]) -> Iterator[object]:
        """The files of the model, whose listing is ``items``: where that was cut off, each directory by itself."""
        waiting: list[tuple[str, list[object] | None]] = [("", items)]
        listed = 0
        while waiting:
            root, found = waiting.pop()
            found = self._page(model, at, root)[1] if found is None else found
            is_cut = len(found) >= CUT_OFF_AT
            if is_cut:
                found = self._page(model, at, root, recursive=False)[1]
            if len(found) >= CUT_OFF_AT:
                raise MalformedModel(
                    f"{model.model}: the directory {root or '/'} holds {CUT_OFF_AT} files or more, of which ModelScope "
                    "lists no more",
                    remedy="download the model with git and serve the directory",
                )
            listed += 1 + len(found)
            if listed > MOST_ENTRIES:
                raise self._no_site(self._api(model), f"it lists more than {MOST_ENTRIES} entries")
            for item in found:
                match item:
                    case {"Type": "tree", "Path": str(path)} if is_cut:
                        waiting.append((path, None))
                    case _:
                        yield item

    def _page(
        self, model: ModelUri, revision: str, root: str = "", *, recursive: bool = True
    ) -> tuple[object, list[object]]:
        """One answer of the listing: its last commit, and the entries in it."""
        query = {"Revision": revision, "Recursive": str(recursive)} | ({"Root": root} if root else {})
        url = f"{self._api(model)}/repo/files?{urlencode(query, quote_via=quote)}"
        match self._part(url, model) if root else self._data(url, model):
            case {"Files": list(items), **rest}:
                return rest.get("LatestCommitter"), items
            case {"Files": None} | None:
                return None, []
        raise self._no_site(url, "it lists no files")

    def _part(self, url: str, model: ModelUri) -> object:
        """As :meth:`_data`; the site now and then forbids a part of what it lets us list, and is asked again."""
        for _ in range(_DENIALS):
            with suppress(Unauthorized):
                return self._data(url, model)
        return self._data(url, model)

    def _entry(self, model: ModelUri, item: object, at: str) -> FileEntry | None:
        try:
            listed = Listed.parse(item)
        except ValueError as error:
            raise self._no_site(self._api(model), f"it lists {error}") from None
        if listed is None:
            return None
        uri = model.with_revision(listed.commit or at).with_file(listed.path)
        if listed.digest is None and not _COMMIT.fullmatch(uri.revision or ""):
            raise self._no_site(self._api(model), f"it lists {listed.path!r} with neither a commit nor a digest")
        size_bytes = self._size(uri) if listed.size_bytes is None else listed.size_bytes
        return FileEntry(listed.path, size_bytes, uri, listed.digest)

    def _size(self, file: ModelUri) -> int:
        """The size of a file that is listed without one."""
        url = self._url_of(file)
        answer = self._fetch(url, self._headers(url) | range_header(0, 1))
        if answer.status not in (200, 206, 416):
            raise self._refusal(answer.status, "", file)
        size_bytes = file_bytes(answer)
        if size_bytes is None:
            raise self._no_site(url, "it does not tell the size of the file")
        return size_bytes

    def _api(self, model: ModelUri) -> str:
        return f"{self._endpoint}/api/v1/models/{model.location}"

    def _url_of(self, file: ModelUri) -> str:
        query = {"Revision": file.revision or "master", "FilePath": file.file or ""}
        return f"{self._api(file)}/repo?{urlencode(query, quote_via=quote)}"

    def _headers(self, url: str) -> dict[str, str]:
        if self._token is None or origin(url) != self._origin:
            return {}
        token = self._token.reveal()
        return {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={quote(token, safe=_IN_COOKIES)}"}

    def _data(self, url: str, model: ModelUri, *, tries: int | None = None) -> object:
        """What a call of the API is about: the ``Data`` of an answer that says 200 twice."""
        answer = self._fetch(url, self._headers(url), tries=tries)
        try:
            body = answer.json(dict)
        except ValueError as error:
            body = {"Message": f"HTTP {answer.status} with {error}"}
        said = self._said(body)
        match answer.status, body.get("Code"):
            case 200, 200:
                return body.get("Data")
            case 200, int(code) if code in (401, 403, 404, 429):
                raise self._refusal(code, said, model)
            case status, code if code is not None or status in (401, 403):
                raise self._refusal(status, said, model)
        raise self._no_site(url, f"it answers HTTP {answer.status}{said}")

    def _fetch(self, url: str, headers: dict[str, str], *, tries: int | None = None) -> Answer:
        try:
            return self._client.fetch(url, headers, tries=tries)
        except RateLimited as error:
            raise self._rate_limited(error.message) from error

    def _no_site(self, url: str, why: str) -> SourceProtocolError:
        return SourceProtocolError(
            f"{redacted(url)} does not behave as ModelScope does: {why}",
            remedy=f"check that MODELSCOPE_ENDPOINT={self._endpoint} is ModelScope, "
            "and that no login page answers in its place",
        )

    def _refusal(self, status: int, said: str, model: ModelUri) -> SourceError:
        """The error for an answer of the site that is no answer, by its status."""
        match status:
            case 401 | 403 if self._token is None:
                return Unauthorized(
                    f"{self._endpoint} does not let everybody read {model.location}{said}",
                    remedy="set MODELSCOPE_API_TOKEN to an access token of an account that may read it",
                )
            case 401:
                return Unauthorized(
                    f"{self._endpoint} rejects MODELSCOPE_API_TOKEN{said}",
                    remedy=f"make a new one at {self._endpoint}/my/myaccesstoken, or unset MODELSCOPE_API_TOKEN for "
                    "public models",
                )
            case 403:
                return Unauthorized(
                    f"{self._endpoint} does not let MODELSCOPE_API_TOKEN read {model.location}{said}",
                    remedy="set MODELSCOPE_API_TOKEN to a token of an account that may read this model",
                )
            case 404 if model.file:
                message = f"{model.model} has no file {model.file!r} any more"
                return FileNotFoundAtSource(message, remedy=LIST_AGAIN)
            case 404:
                hidden = "must belong to an account that can see it" if self._token else "has to be set"
                return ModelNotFound(
                    f"{self._endpoint} has no model {model.location}{said}",
                    remedy=f"check the name; if the model is private, MODELSCOPE_API_TOKEN {hidden}",
                )
            case 429:
                return self._rate_limited(f"{self._endpoint} asks to be left alone{said}")
        return self._no_site(self._api(model), f"it answers HTTP {status}{said}")

    def _rate_limited(self, message: str) -> RateLimited:
        allows = "" if self._token else "set MODELSCOPE_API_TOKEN, as more is allowed to accounts, or "
        return RateLimited(message, remedy=f"{allows}wait and start again")

    def _no_revision(self, model: ModelUri, names: list[str]) -> RevisionNotFound:
        likely = list(dict.fromkeys(nearest(model.effective_revision or "", names) + names))
        more = ", …" if len(likely) > 8 else ""
        page = f"choose one of those listed at {self._endpoint}/models/{model.location}/files"
        return RevisionNotFound(
            f"{model.model.location} at ModelScope: there is no branch, tag or commit {model.effective_revision!r}, "
            "or no file in it",
            remedy=f"it has {', '.join(likely[:8])}{more}" if likely else page,
        )

    def _revisions(self, model: ModelUri) -> list[str]:
        """The branches and tags of the model; none where the site does not tell."""
        try:
            return revision_names(self._data(f"{self._api(model)}/revisions", model.model, tries=1))
        except SourceError:
            return []

    def _said(self, body: dict[str, object]) -> str:
        return it_says(str(body.get("Message") or ""), self._token.reveal() if self._token else "")

    def _cached(self, model: ModelUri) -> Manifest:
        """The model from the first cache that seems to have it whole, or the file; OfflineError where none has."""
        why = "it is not there"
        for cache in self._caches:
            self._report(Note(f"{model}: looking for it in {cache.root}; what is there is read for its digests"))
            found = cache.list_snapshot(model)
            if isinstance(found, Manifest):
                return found
            why = found
        roots = " or ".join(str(cache.root) for cache in self._caches) or "(none)"
        folder = self._caches[0].folder(model) if self._caches else "a ModelScope cache"
        raise OfflineError(
            f"{model} is needed, the network is forbidden, and in the ModelScope cache {roots} {why}",
            remedy=f"unset LADING_OFFLINE and HF_HUB_OFFLINE, or copy the model to {folder} from a machine that has it",
        )


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as a listing tells it; None is what it does not tell. ``commit`` is the one that last changed the file."""

    path: str
    size_bytes: int | None
    digest: Digest | None
    commit: str | None

    @classmethod
    def parse(cls, item: object) -> Listed | None:
        """The file that one element of a listing describes; None for what is no file.

        Raises ValueError, whose text completes "it lists …", for an element of another shape.
        """
        match item:
            case {"Type": str(kind)} if kind not in ("blob", "file"):
                return None
            case {"Path": str(path), **rest}:
                size, sha256, commit = rest.get("Size"), rest.get("Sha256"), rest.get("Revision")
            case _:
                raise ValueError("something that is no file")
        if size is not None and (type(size) is not int or not 0 <= size < LARGEST_FILE_BYTES):
            raise ValueError(f"{path!r} with a size of {size!r}")
        try:
            digest = Digest("sha256", str(sha256).lower()) if sha256 else None
        except ValueError:
            raise ValueError(f"{path!r} with the SHA-256 {str(sha256)[:80]!r}") from None
        is_known = bool(size) or digest == _EMPTY  # an unknown size is told as 0, too
        pin = commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None
        return cls(path, size if is_known else None, digest, pin)


def head_commit(latest: object, commits: list[str]) -> str | None:
    """The commit that was listed, from ``LatestCommitter``: in full where that or ``commits`` have it, else its start.

    None where nothing is told. ``commits`` may hold anything.
    """
    match latest:
        case {"Id": str(commit)} if _COMMIT.fullmatch(commit):
            return commit
        case {"ShortId": str(start)} if _COMMIT_START.fullmatch(start):
            full = (each for each in commits if each.startswith(start) and _COMMIT.fullmatch(each))
            return next(full, start)
    return None


def commits_of(items: list[object]) -> list[str]:
    """The commits that the entries of a listing were last changed by, however malformed."""
    return [commit for item in items if isinstance(item, dict) and isinstance(commit := item.get("Revision"), str)]


def revision_names(data: object) -> list[str]:
    """The branches and tags in an answer of the revisions API, however malformed."""
    match data:
        case {"RevisionMap": dict(kinds)}:
            members = [
                each for kind in ("Branches", "Tags") if isinstance(kinds.get(kind), list) for each in kinds[kind]
            ]
            return commits_of(members)
    return []
