"""The files of hubs that redirect to storage: a link to storage is kept and used until storage refuses it.

So a file that is read in many ranges costs its hub one call. What goes along with a request is its source's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import BytesIO

from lading.errors import SourceError, SourceUnreachable
from lading.model.manifest import FileEntry
from lading.sources.answer import Response, range_header, read_range
from lading.sources.http import HttpClient
from lading.sources.interface import PassingFault, RangeReader, is_empty_range
from lading.sources.urls import origin, redacted
from lading.uri import ModelUri

_REFUSED_LINK = {401, 403, 404, 410}


class LinkedFiles:
    """The files of the hub at ``hub``, an origin; ``headers`` gives those to send with a request for a URL."""

    def __init__(
        self, client: HttpClient, hub: tuple[str, str, int], headers: Callable[[str], Mapping[str, str]]
    ) -> None:
        self._client = client
        self._hub = hub
        self._headers = headers
        self._links: dict[ModelUri, str] = {}

    @contextmanager
    def open_range(
        self, file: FileEntry, url: str, start: int, end: int, refusal: Callable[[Response], SourceError]
    ) -> Iterator[RangeReader]:
        """One range of ``file``, which the hub has at ``url``: :meth:`lading.sources.interface.Source.open_range`.

        ``refusal`` is the error for an answer of the hub itself that is no answer.
        """
        if is_empty_range(file, start, end):
            yield BytesIO()
            return
        with ExitStack() as stack:
            response = self._opened(stack, file.uri, url, range_header(start, end))
            response.raise_if_passing()
            if response.status not in (200, 206, 416):
                raise refusal(response) if origin(response.url) == self._hub else _refused_link(response, file.uri)
            yield read_range(response, start, end, file.size_bytes)

    def _opened(self, stack: ExitStack, file: ModelUri, url: str, wanted: Mapping[str, str]) -> Response:
        link = self._links.get(file)
        if link:
            response = self._open_link(stack, link, file, wanted)
            if response.status not in _REFUSED_LINK:
                return response
            response.close()
            self._links.pop(file, None)
        response = stack.enter_context(self._client.open(url, {**self._headers(url), **wanted}))
        if response.url != url and response.status in (200, 206):
            self._links[file] = response.url
        return response

    def _open_link(self, stack: ExitStack, link: str, file: ModelUri, wanted: Mapping[str, str]) -> Response:
        try:
            return stack.enter_context(self._client.open(link, {**self._headers(link), **wanted}))
        except SourceUnreachable:
            self._links.pop(file, None)  # the hub may know another storage host by the next try
            raise


def _refused_link(response: Response, file: ModelUri) -> PassingFault:
    return PassingFault(
        f"{redacted(response.url)}, where the hub sent us for {file.file}, answers HTTP {response.status}",
        remedy="check this machine's clock: links to storage are valid for a short time only",
        status=response.status,
    )
