"""What a stand is: a model at a source that works, the settings of its user, and secrets that nobody may be shown.

The suite asks a stand for everything: to put, change and remove files, to commit a fault, to say which requests came.
Every stand's settings hold credentials for *all* sources, so that one that is sent, or shown, in the wrong place is found
wherever it turns up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl, quote

from lading.model.manifest import FileEntry, Manifest
from lading.sources.interface import Source
from lading.uri import ModelUri, Scheme
from tests.simulators.azure import KEY as AZURE_KEY
from tests.simulators.faults import Fault
from tests.simulators.server import Call, FaultyServer, Reply, Request
from tests.sources.contract.line import AUTHORITY, Line

ELSEWHERE = "elsewhere.test"
PROXY_PASSWORD = "canary-of-the-proxy"
HF_TOKEN = "hf_canaryOfTheHub000"
NGC_KEY = "canaryOfNgcLegacyKey"
MODELSCOPE_TOKEN = "ms-canary-of-modelscope"
AWS_SECRET = "canary/of+the/aws/secret/key"
AWS_SESSION = "canary-of-the-aws-session//=="
GOOGLE_SECRET, GOOGLE_REFRESH = "canary-of-the-google-client", "1//canary-of-the-google-login"
HTTP_TOKEN = "canary-of-the-web-server"
AZURE_SIGNATURE = "canary/of+azures+signature="
CREDENTIALS = {
    "HF_TOKEN": HF_TOKEN,
    "NGC_API_KEY": NGC_KEY,
    "MODELSCOPE_API_TOKEN": MODELSCOPE_TOKEN,
    "AWS_ACCESS_KEY_ID": "AKIACANARY",
    "AWS_SECRET_ACCESS_KEY": AWS_SECRET,
    "AWS_SESSION_TOKEN": AWS_SESSION,
    "AZURE_STORAGE_KEY": AZURE_KEY,
    "LADING_HTTP_TOKEN": HTTP_TOKEN,
    "HTTP_PROXY": f"http://user:{PROXY_PASSWORD}@127.0.0.1:1",
}
SECRETS = (
    HF_TOKEN,
    NGC_KEY,
    MODELSCOPE_TOKEN,
    AWS_SECRET,
    AWS_SESSION,
    HTTP_TOKEN,
    PROXY_PASSWORD,
    GOOGLE_SECRET,
    GOOGLE_REFRESH,
    AZURE_KEY,
    AZURE_SIGNATURE,
)
_SIGNATURES = {"Signature", "X-Amz-Signature", "auth_key", "sig"}


class Stand(ABC):
    """A model at a working source, from construction to ``close``.

    ``files`` is what it holds now; ``uri`` names it; ``environ`` is what a user would set.
    """

    scheme: ClassVar[Scheme]
    can_list = True  # False: files can only be named one by one
    named: str | None = None  # what access() calls the credential

    def __init__(self, directory: Path, files: Mapping[str, bytes]) -> None:
        self.directory = directory
        self.files = dict(files)
        self.publish()

    @property
    @abstractmethod
    def uri(self) -> ModelUri:
        """The model."""

    @property
    @abstractmethod
    def missing(self) -> ModelUri:
        """A model that is not there."""

    @property
    def environ(self) -> dict[str, str]:
        """The settings, and nothing else."""
        quiet = {"NO_PROXY": "*", "AWS_EC2_METADATA_DISABLED": "true", "NO_GCE_CHECK": "true"}
        return {**CREDENTIALS, **quiet, "SSL_CERT_FILE": str(AUTHORITY)}  # also much faster to read than the system's

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown."""
        return SECRETS

    @abstractmethod
    def publish(self) -> None:
        """Make the source hold exactly ``files``."""

    def put(self, path: str, data: bytes) -> None:
        """Hold ``data`` at ``path`` from now on, as a later version where there is one already."""
        self.files[path] = data
        self.publish()

    def remove(self, path: str) -> None:
        """Hold ``path`` no longer."""
        del self.files[path]
        self.publish()

    def listed(self, source: Source) -> Manifest:
        """All files, as the source lists them."""
        return source.list_files(self.uri)

    def entry(self, source: Source, path: str) -> FileEntry:
        """One file, as the source lists it."""
        found = source.list_files(self.uri.with_file(path)).find(path)
        assert found is not None
        return found

    def close(self) -> None:  # noqa: B027  # a directory has nothing to end
        """End everything that runs."""


class Interposed(FaultyServer):
    """A server some of whose answers a test gives: ``interpose`` says which, None for the server's own."""

    interpose: Callable[[Call], Reply | None] | None = None
    understand: Callable[[Call], Call] | None = None  # what it takes a request for

    def respond(self, call: Call) -> Any:
        return super().respond(self.understand(call) if self.understand else call)

    def answer(self, call: Call) -> Reply:
        given = self.interpose(call) if self.interpose else None
        return given or self.genuine(call)

    def genuine(self, call: Call) -> Reply:
        """The server's own answer."""
        return super().answer(call)  # type: ignore[safe-super]  # the simulator's, which comes next


class ServedStand(Stand):
    """A model at a server of ours. The way to it is a :class:`Line`."""

    listing: ClassVar[str]  # what the path of a listing's request starts with
    bytes_from_storage: ClassVar[bool]  # whether files come from another host, where a link of the first one leads
    moved_to: ClassVar[str] = "http://localhost:{port}"
    tells_digests = True
    signs_urls: ClassVar[bool] = False  # by its protocol, credentials stand in the queries of requests
    server: Interposed

    def __init__(self, directory: Path, files: Mapping[str, bytes]) -> None:
        self.server = self.make_server()
        self.line = self.make_line()
        self.server.cdn_endpoint = f"http://localhost:{self.line.port}"
        self.server.endpoint = self.line.endpoint
        super().__init__(directory, files)

    @abstractmethod
    def make_server(self) -> Interposed:
        """The server, holding nothing."""

    def make_line(self) -> Line:
        """The way to it."""
        return Line(self.server.port)

    @property
    def environ(self) -> dict[str, str]:
        return super().environ | self.environ_at(self.line.endpoint)

    @abstractmethod
    def environ_at(self, endpoint: str) -> dict[str, str]:
        """The settings for the server at an endpoint."""

    @abstractmethod
    def refusal(self, status: int, text: str) -> Reply:
        """The server's own way to say no, with a sentence."""

    @property
    def own_secrets(self) -> tuple[str, ...]:
        """What only this server may be sent."""
        return ()

    @property
    def secrets(self) -> tuple[str, ...]:
        queries = (pair for request in self.requests for pair in parse_qsl(request.query))
        links = {value for name, value in queries if name in _SIGNATURES}
        return (*SECRETS, *self.own_secrets, *links)

    @property
    def requests(self) -> list[Request]:
        """What came, in order."""
        return self.server.requests

    @property
    def requests_elsewhere(self) -> list[Request]:
        """What came under another host's name than the one that the settings name."""
        return [each for each in self.requests if _host(each.headers) in ("localhost", ELSEWHERE)]

    def stored_as(self, path: str) -> str:
        """The server's name for a file."""
        return path

    def fault(self, path: str, *faults: Fault, times: int | None = 1) -> None:
        """Commit these when the file's bytes are asked for, wherever they come from."""
        for each in faults:
            on = "cdn" if self.bytes_from_storage else None
            self.server.fault(self.stored_as(path), each, times=times, on=on)  # type: ignore[arg-type]

    def fault_listing(self, *faults: Fault) -> None:
        """Commit these when the model is listed."""
        for each in faults:
            self.server.fault(self.listing, each)

    def reads_of(self, path: str) -> list[Request]:
        """The requests that got bytes of a file."""
        return [each for each in self.server.requests_for(self.stored_as(path)) if each.status in (200, 206)]

    def without_preconditions(self, call: Call) -> Call:
        """A request as a server understands it that does not know what pins it to a version."""
        return replace(call, headers={name: value for name, value in call.headers.items() if name != "if-match"})

    def forget_digests(self) -> None:
        """List files from now on without a digest, where the server may do so."""
        self.tells_digests = False
        held, self.files = self.files, {}
        self.publish()
        self.files = held
        self.publish()

    def page_by(self, count: int) -> bool:
        """List no more than ``count`` files at once; False where the server has no pages."""
        self.server.page_size = count  # type: ignore[attr-defined]
        return True

    def close(self) -> None:
        self.line.close()
        self.server.stop()


def move_away(stand: ServedStand, *, to: str | None = None) -> None:
    """Make the server redirect every GET to another host, which answers as it would have done.

    ``to`` is that host, else the stand's own idea of one.
    """
    sent: list[Call] = []
    target = to or stand.moved_to.format(port=stand.line.port)

    def interpose(call: Call) -> Reply | None:
        if _host(call.headers) not in ("localhost", ELSEWHERE):
            if call.method != "GET":
                return None
            sent.append(call)
            return Reply(307, {"Location": f"{target}/moved/{sent.index(call)}"}, b"moved")
        if not call.path.startswith("/moved/"):
            return None
        asked = sent[int(call.segments[-1])]
        return stand.server.genuine(replace(asked, headers={**asked.headers, **call.headers}))

    stand.server.interpose = interpose


def shown_forms(secret: str) -> set[str]:
    """How a secret looks where it was written into a URL or a header, too."""
    return {secret, quote(secret), quote(secret, safe=""), b64encode(secret.encode()).decode()}


def _host(headers: Mapping[str, str]) -> str:
    return headers.get("host", "").partition(":")[0]
