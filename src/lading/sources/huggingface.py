"""Models of a Hugging Face hub: huggingface.co, a mirror of it, or a private one (``HF_ENDPOINT``).

Three kinds of calls. ``/api/models/{repo}/revision/{revision}`` pins the revision to a commit; ``…/tree/{commit}``
lists the files page by page, with the SHA-256 of those in LFS and git's blob id of the others;
``/{repo}/resolve/{commit}/…`` redirects to a signed link on a storage host, which is kept and used until it is refused.
Rules kept here:

* the token goes to the endpoint's scheme, host and port, and nowhere else;
* refusals are told apart by status and ``X-Error-Code``; the hub's own sentence is shown, never searched;
* an existing Hugging Face cache stands in for the hub's listing when offline or when the hub cannot be reached, and
  offers its files as local copies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urljoin, urlsplit

from lading.digest import Digest
from lading.errors import (
    FileNotFoundAtSource,
    GatedModel,
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
from lading.sources.answer import Answer, Response
from lading.sources.http import HttpClient
from lading.sources.huggingface_cache import COMMIT, HuggingFaceCache, cache_roots
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
from lading.sources.quoting import it_says
from lading.sources.urls import endpoint_origin, origin, redacted
from lading.uri import ModelUri

MOST_FILES = 200_000

_API = "/api/models/"
_LINK = re.compile(r"<([^<>]*)>([^<]*)")
_Json = TypeVar("_Json", dict[str, object], list[object])


ABOUT = About(
    title="Hugging Face Hub, or a mirror of it",
    credentials=("`HF_TOKEN`", "`HUGGING_FACE_HUB_TOKEN`", "none: public models"),
    endpoint="`HF_ENDPOINT`, else `https://huggingface.co`",
    pinned_by="the commit that the revision stands for",
    checksum="SHA-256 of files in LFS, git's blob id of the others",
    resume="byte ranges; signed links are renewed",
    tested_against="a simulator that the official `huggingface_hub` downloads from; Olah in front of it",
    notes=(
        "An existing cache (`HF_HUB_CACHE`, `HF_HOME`, `~/.cache/huggingface`, and what a NIM left in "
        "`$NIM_CACHE_PATH/huggingface`) is read, never written: its files are "
        "verified and taken instead of downloaded, and its listing serves offline",
    ),
)


def connect(context: Context) -> HuggingFaceSource:
    """The hub that the settings name."""
    settings = context.settings
    nim = context.volume / "huggingface"
    roots = [*cache_roots(settings.hf_hub_cache, settings.hf_home, context.home), nim / "hub", nim]
    caches = [HuggingFaceCache(root) for root in roots]
    return HuggingFaceSource(context.client, settings.hf_endpoint, settings.hf_token, caches, context.report)


class _PagesInACircle(SourceProtocolError):
    """The pages of a listing come back to one that was there before."""


class HuggingFaceSource:
    """The hub at ``endpoint``, asked with ``token`` or anonymously; ``caches`` are Hugging Face caches to read from."""

    in_place = False

    def __init__(
        self,
        client: HttpClient,
        endpoint: str,
        token: Secret | None = None,
        caches: Sequence[HuggingFaceCache] = (),
        report: Report = ignore,
    ) -> None:
        self._client = client
        self._endpoint = endpoint.rstrip("/")
        self._origin = endpoint_origin(self._endpoint, "HF_ENDPOINT", "HF_TOKEN")
        self._token = usable_token(token, "HF_TOKEN")
        self._caches = caches
        self._report = report
        self._files = LinkedFiles(client, self._origin, self._headers)

    def access(self, model: ModelUri) -> Access:  # noqa: ARG002  # the same for all models
        """The endpoint, and the token's name."""
        return Access(redacted(self._endpoint), self._token.name if self._token else None)

    def list_files(self, model: ModelUri) -> Manifest:
        """All files of the model, or the one it names, at the commit its revision stands for now.

        Offline, and with a warning when the hub cannot be reached: from a Hugging Face cache that has them.
        """
        if self._client.offline:
            cached = self._cached(model)
            if isinstance(cached, Manifest):
                return cached
            raise self._offline(model, cached)
        try:
            return only_file(self._listed(model), model.file)
        except SourceUnreachable as error:
            cached = self._cached(model)
            if not isinstance(cached, Manifest):
                raise
            here = f"taking {model} as the Hugging Face cache has it, at {cached.revision}"
            self._report(Note(f"{error.message}; {here}", "WARNING"))
            return cached

    @contextmanager
    def open_range(self, file: FileEntry, start: int, end: int) -> Iterator[RangeReader]:
        """The bytes of one range, from storage where the hub redirects there."""
        path = quote(file.uri.file or "")
        url = f"{self._endpoint}/{file.uri.location}/resolve/{quote(file.uri.revision or 'main', safe='')}/{path}"

        def refusal(answer: Response) -> SourceError:
            return self._refusal(answer.status, answer.headers, file.uri)

        with self._files.open_range(file, url, start, end, refusal) as body:
            yield body

    def local_copy(self, file: FileEntry) -> Path | None:
        """The file in a Hugging Face cache, by its name at its commit or by its digest."""
        repo, commit, path = file.uri.location, file.uri.revision or "", file.uri.file or file.path
        for cache in self._caches:
            by_name = cache.find(repo, commit, path)
            by_digest = cache.find_blob(repo, file.digest) if file.digest else None
            for found in (by_name, by_digest):
                if found and found.stat().st_size == file.size_bytes:
                    return found
        return None

    def _listed(self, model: ModelUri) -> Manifest:
        revision = quote(model.effective_revision or "main", safe="")
        answer = self._ask(f"{self._endpoint}{_API}{model.location}/revision/{revision}", model)
        commit = self._json(answer, dict).get("sha")
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise self._no_hub(answer.url, "it names no commit")
        pinned = model.model.with_revision(commit)
        entries = (self._entry(pinned, item) for item in self._tree(pinned))
        return Manifest.of(model, commit, [entry for entry in entries if entry])

    def _tree(self, pinned: ModelUri) -> list[object]:
        """Everything in the model's tree, by pages; by directories where these go in a circle, as Olah's do."""
        try:
            return list(self._pages(pinned, "", recursive=True))
        except _PagesInACircle:
            return list(self._walk(pinned))

    def _walk(self, pinned: ModelUri) -> Iterator[object]:
        left, listed = [""], 0
        while left:
            for item in self._pages(pinned, left.pop(), recursive=False):
                listed += 1
                yield item
                match item:
                    case {"type": "directory", "path": str(path)}:
                        left.append(path)
            if listed > MOST_FILES:
                raise self._no_hub(f"{self._endpoint}{_API}{pinned.location}", f"it lists more than {MOST_FILES} files")

    def _pages(self, pinned: ModelUri, directory: str, *, recursive: bool) -> Iterator[object]:
        below = f"/{quote(directory)}" if directory else ""
        query = f"recursive={str(recursive).lower()}&expand=false"
        url = f"{self._endpoint}{_API}{pinned.location}/tree/{pinned.revision}{below}?{query}"
        asked: set[str] = set()
        listed = 0
        while url:
            asked.add(url)
            answer = self._ask(url, pinned)
            page = self._json(answer, list)
            listed += max(1, len(page))  # so that empty pages come to an end too
            yield from page
            url = next_page(answer, self._endpoint)
            if listed > MOST_FILES:
                raise self._no_hub(answer.url, f"it lists more than {MOST_FILES} files")
            if url in asked:
                error = self._no_hub(answer.url, "the pages of its listing go in a circle")
                raise _PagesInACircle(error.message, remedy=error.remedy)

    def _entry(self, pinned: ModelUri, item: object) -> FileEntry | None:
        try:
            return parse_entry(pinned, item)
        except ValueError as error:
            raise self._no_hub(f"{self._endpoint}{_API}{pinned.location}", f"it lists {error}") from None

    def _headers(self, url: str) -> dict[str, str]:
        if self._token is None or origin(url) != self._origin:
            return {}
        return {"Authorization": f"Bearer {self._token.reveal()}"}

    def _ask(self, url: str, model: ModelUri, *, tries: int | None = None) -> Answer:
        try:
            answer = self._client.fetch(url, self._headers(url), tries=tries)
        except RateLimited as error:
            allows = "the hub allows more to tokens: set HF_TOKEN, or" if not self._token else "the hub asks to"
            raise RateLimited(error.message, remedy=f"{allows} wait and start again") from error
        if answer.status != 200:
            raise self._refusal(answer.status, answer.headers, model)
        return answer

    def _json(self, answer: Answer, kind: type[_Json]) -> _Json:
        try:
            return answer.json(kind)
        except ValueError as error:
            raise self._no_hub(answer.url, f"it answers with {error}") from None

    def _no_hub(self, url: str, why: str) -> SourceProtocolError:
        return SourceProtocolError(
            f"{redacted(url)} does not behave as a Hugging Face hub does: {why}",
            remedy=f"check that HF_ENDPOINT={self._endpoint} is a hub, and that no login page answers in its place",
        )

    def _refusal(self, status: int, headers: Mapping[str, str], model: ModelUri) -> SourceError:
        """The error for an answer of the hub that is no answer, by its status and error code."""
        name = f"hf://{model.location}"
        said = it_says(headers.get("X-Error-Message", ""), self._token.reveal() if self._token else "")
        match headers.get("X-Error-Code", ""), status:
            case "GatedRepo", _:
                return self._gated(model)
            case "RevisionNotFound", _:
                message = f"{name}: there is no branch, tag or commit {model.effective_revision!r}"
                return RevisionNotFound(message, remedy=self._revisions(model))
            case "EntryNotFound", _:
                message = f"{name} at {model.effective_revision} has no file {model.file!r}"
                return FileNotFoundAtSource(message, remedy=LIST_AGAIN)
            case code, 401 if code != "RepoNotFound" and self._token:
                return Unauthorized(
                    f"{self._endpoint} rejects HF_TOKEN{said}",
                    remedy=f"make a new one at {self._endpoint}/settings/tokens, or unset HF_TOKEN for public models",
                )
            case "RepoNotFound", _:
                return ModelNotFound(f"{self._endpoint} has no model {model.location}", remedy=self._look_again())
            case _, 401 | 404:
                remedy = f"{self._look_again()}; check that HF_ENDPOINT={self._endpoint} is a hub"
                return ModelNotFound(f"{self._endpoint} has no model {model.location}", remedy=remedy)
            case _, 403:
                credentials = "HF_TOKEN" if self._token else "no token"
                return Unauthorized(
                    f"{self._endpoint} does not let {credentials} read {model.location}{said}",
                    remedy="set HF_TOKEN to a token that may read this model",
                )
            case _, 410 | 451:
                return ModelNotFound(f"{self._endpoint} has withdrawn {model.location} (HTTP {status}){said}")
        return self._no_hub(f"{self._endpoint}/{model.location}", f"it answers HTTP {status}{said}")

    def _gated(self, model: ModelUri) -> GatedModel:
        page = f"{self._endpoint}/{model.location}"
        if self._token:
            return GatedModel(
                f"hf://{model.location} is gated, and the account of HF_TOKEN has no access to it",
                remedy=f"accept the licence at {page} with that account, or set HF_TOKEN to a token of one that did; "
                "a fine-grained token must also be allowed to read gated models",
            )
        return GatedModel(
            f"hf://{model.location} is gated: its licence must be accepted first",
            remedy=f"accept the licence at {page}, then set HF_TOKEN to a token of that account",
        )

    def _look_again(self) -> str:
        if self._token:
            return "check the name; if the model is private, HF_TOKEN must belong to an account that can see it"
        return "check the name; if the model is private, set HF_TOKEN"

    def _revisions(self, model: ModelUri) -> str:
        """A remedy that names revisions the model has; a general one where the hub does not tell."""
        try:
            refs = self._json(self._ask(f"{self._endpoint}{_API}{model.location}/refs", model.model, tries=1), dict)
        except SourceError:
            return f"choose one of those listed at {self._endpoint}/{model.location}/tree/main"
        names = ref_names(refs)
        likely = list(dict.fromkeys(nearest(model.revision or "", names) + names))
        more = ", …" if len(likely) > 8 else ""
        return f"it has {', '.join(likely[:8])}{more}" if likely else "the model has no revisions yet"

    def _cached(self, model: ModelUri) -> Manifest | str:
        """The model from the first cache that seems to have it whole; else what it lacks there, as a clause."""
        why = "it is not there"
        for cache in self._caches:
            manifest = cache.list_snapshot(model)
            if manifest is None:
                continue
            if model.file is None:
                lack = cache.lack(manifest)
            else:
                lack = None if manifest.find(model.file) else f"{model.file} is missing"
            if lack is None:
                return only_file(manifest, model.file)
            why = lack
        return why

    def _offline(self, model: ModelUri, why: str) -> OfflineError:
        roots = " or ".join(str(cache.root) for cache in self._caches) or "(none)"
        folder = self._caches[0].folder(model.location) if self._caches else "a Hugging Face cache"
        return OfflineError(
            f"{model} is needed, the network is forbidden, and in the Hugging Face cache {roots} {why}",
            remedy=f"unset LADING_OFFLINE and HF_HUB_OFFLINE, or copy the model to {folder} from a machine that has it",
        )


def parse_entry(pinned: ModelUri, item: object) -> FileEntry | None:
    """The file that one element of a tree page describes; None for what is no file.

    Raises ValueError, whose text completes "it lists …", for an element of another shape, UnsafePath for its name.
    """
    match item:
        case {"type": "file", "path": str(path), "size": int(size), "lfs": {"oid": str(oid), **lfs}}:
            algorithm, size_bytes = "sha256", lfs.get("size", size)
        case {"type": "file", "path": str(path), "size": int(size_bytes), "oid": str(oid)}:
            algorithm = "gitsha1"
        case {"type": str(kind)} if kind != "file":
            return None
        case _:
            raise ValueError("something that is no file")
    if type(size_bytes) is not int or not 0 <= size_bytes < LARGEST_FILE_BYTES:
        raise ValueError(f"{path!r} with a size of {size_bytes!r}")
    try:
        digest = Digest(algorithm, oid)
    except ValueError:
        raise ValueError(f"{path!r} with the id {oid[:80]!r}") from None
    return FileEntry(path, size_bytes, pinned.with_file(path), digest, f'"{oid}"')


def next_page(answer: Answer, endpoint: str) -> str:
    """The URL of the next page of a listing, "" on the last.

    Mirrors pass on the links of the hub they mirror, which would lead away from them: a link's path and query are kept,
    its host is replaced by the endpoint. Raises SourceProtocolError for a link that is not one of the hub's API.
    """
    for target, parameters in _LINK.findall(answer.headers.get("Link", "")):
        if not re.search(r'\brel="?next\b', parameters):
            continue
        try:
            link = urlsplit(urljoin(answer.url, target))
        except ValueError:
            link = urlsplit("")
        start = link.path.find(_API)
        if start < 0:
            raise SourceProtocolError(f"{redacted(answer.url)}: the link to its next page leads out of the hub's API")
        return f"{endpoint}{link.path[start:]}{'?' if link.query else ''}{link.query}"
    return ""


def ref_names(refs: Mapping[str, object]) -> list[str]:
    """The branches and tags in an answer of the refs API, however malformed."""
    found: list[str] = []
    for kind in ("branches", "tags"):
        members = refs.get(kind)
        for member in members if isinstance(members, list) else []:
            if isinstance(member, dict) and isinstance(member.get("name"), str):
                found.append(member["name"])
    return found
