"""The stands, one per scheme; a new source is one class here and one line in :data:`STANDS`."""

from __future__ import annotations

import hashlib
import json
import os
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from lading.model.manifest import Manifest
from lading.sources.interface import Source
from lading.uri import ModelUri, Scheme
from tests.simulators.azure import ACCOUNT, AzureSimulator
from tests.simulators.azure import KEY as AZURE_KEY
from tests.simulators.google import GoogleSimulator
from tests.simulators.hub import HubSimulator
from tests.simulators.modelscope import ModelScopeSimulator
from tests.simulators.ngc import NgcSimulator
from tests.simulators.s3 import S3Simulator, error_reply
from tests.simulators.server import Call, FaultyServer, Reply, Request, json_reply
from tests.sources.contract.line import Line
from tests.sources.contract.stand import (
    AWS_SECRET,
    AWS_SESSION,
    AZURE_SIGNATURE,
    ELSEWHERE,
    GOOGLE_REFRESH,
    GOOGLE_SECRET,
    HF_TOKEN,
    HTTP_TOKEN,
    MODELSCOPE_TOKEN,
    NGC_KEY,
    PROXY_PASSWORD,
    Interposed,
    ServedStand,
    Stand,
)


class DirectoryStand(Stand):
    """A directory of this machine."""

    scheme = Scheme.LOCAL

    @property
    def uri(self) -> ModelUri:
        return ModelUri.parse(f"local://{self.directory}/the%20model")

    @property
    def missing(self) -> ModelUri:
        return ModelUri.parse(f"local://{self.directory}/other")

    def publish(self) -> None:
        root = self.directory / "the model"
        for path in list(root.rglob("*")):
            if path.is_file() and path.relative_to(root).as_posix() not in self.files:
                path.unlink()
        for name, data in self.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != data:
                is_later = path.exists()
                path.write_bytes(data)
                _age(path, -1 if is_later else 60)  # the file system's clock may be too coarse to tell


def _age(path: Path, seconds: int) -> None:
    changed = path.stat().st_mtime_ns - seconds * 1_000_000_000
    os.utime(path, ns=(changed, changed))


class BareDirectoryStand(DirectoryStand):
    """The same, named by its path."""

    scheme = Scheme.PATH

    @property
    def uri(self) -> ModelUri:
        return ModelUri.parse(f"{self.directory}/the model")

    @property
    def missing(self) -> ModelUri:
        return ModelUri.parse(f"{self.directory}/other")


class _Hub(Interposed, HubSimulator):
    pass


class _Ngc(Interposed, NgcSimulator):
    pass


class _ModelScope(Interposed, ModelScopeSimulator):
    pass


class _S3(Interposed, S3Simulator):
    pass


class _Google(Interposed, GoogleSimulator):
    pass


class _Azure(Interposed, AzureSimulator):
    pass


class HubStand(ServedStand):
    scheme = Scheme.HF
    listing = "/api/models/"
    bytes_from_storage = True
    named = "HF_TOKEN"
    uri = ModelUri.parse("hf://demo/tiny")
    missing = ModelUri.parse("hf://demo/other")
    server: _Hub

    def make_server(self) -> _Hub:
        server = _Hub()
        server.require_token(HF_TOKEN)
        return server

    def environ_at(self, endpoint: str) -> dict[str, str]:
        return {"HF_ENDPOINT": endpoint}

    @property
    def own_secrets(self) -> tuple[str, ...]:
        return (HF_TOKEN,)

    def refusal(self, status: int, text: str) -> Reply:
        headers = {"X-Error-Message": text.encode("ascii", "replace").decode()}
        return json_reply(status, {"error": text}, headers)

    def publish(self) -> None:
        self.server.add_model("demo/tiny", self.files, private=True)


class NgcStand(ServedStand):
    scheme = Scheme.NGC
    listing = "/v2/"
    bytes_from_storage = True
    named = "NGC_API_KEY"
    uri = ModelUri.parse("ngc://acme/lab/tiny:1.0")
    missing = ModelUri.parse("ngc://acme/lab/other:1.0")
    server: _Ngc

    def make_server(self) -> _Ngc:
        server = _Ngc()
        server.add_key(NGC_KEY, "acme")
        return server

    def environ_at(self, endpoint: str) -> dict[str, str]:
        return {"NGC_CLI_API_URL": endpoint, "NGC_CLI_AUTH_URL": endpoint}

    @property
    def own_secrets(self) -> tuple[str, ...]:
        basic = b64encode(f"$oauthtoken:{NGC_KEY}".encode()).decode()
        return (NGC_KEY, basic, *_bearers(self.requests))

    def refusal(self, status: int, text: str) -> Reply:
        return json_reply(status, {"requestStatus": {"statusCode": "NO", "statusDescription": text}})

    def publish(self) -> None:
        self.server.digests = self.tells_digests
        version = self.server.add_model("acme/lab/tiny", "1.0", self.files)
        version.files.clear()
        version.files.update(self.files)


class ModelScopeStand(ServedStand):
    scheme = Scheme.MODELSCOPE
    listing = "/api/v1/models/"
    bytes_from_storage = True
    named = "MODELSCOPE_API_TOKEN"
    uri = ModelUri.parse("modelscope://demo/tiny")
    missing = ModelUri.parse("modelscope://demo/other")
    server: _ModelScope

    def make_server(self) -> _ModelScope:
        server = _ModelScope()
        server.require_token(MODELSCOPE_TOKEN)
        return server

    def environ_at(self, endpoint: str) -> dict[str, str]:
        return {"MODELSCOPE_ENDPOINT": endpoint}

    @property
    def own_secrets(self) -> tuple[str, ...]:
        return (MODELSCOPE_TOKEN,)

    def refusal(self, status: int, text: str) -> Reply:
        return json_reply(status, {"Code": status, "Data": None, "Message": text, "Success": False})

    def publish(self) -> None:
        self.server.untold = set() if self.tells_digests else {"Sha256"}
        self.server.add_model("demo/tiny", self.files, private=True)

    def page_by(self, count: int) -> bool:
        return False


class S3Stand(ServedStand):
    scheme = Scheme.S3
    listing = "/models"
    bytes_from_storage = False
    named = "AWS_ACCESS_KEY_ID"
    uri = ModelUri.parse("s3://models/org/tiny")
    missing = ModelUri.parse("s3://models/org/other")
    server: _S3

    def make_server(self) -> _S3:
        server = _S3()
        server.keys = {"AKIACANARY": AWS_SESSION}
        server.add("models", {"org/tinier/config.json": b"{}"})
        return server

    def environ_at(self, endpoint: str) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}

    @property
    def own_secrets(self) -> tuple[str, ...]:
        return (AWS_SECRET, AWS_SESSION)

    def refusal(self, status: int, text: str) -> Reply:
        return error_reply(status, "AccessDenied", f"<Told>{_escaped(text)}</Told>")

    def stored_as(self, path: str) -> str:
        return f"org/tiny/{path}"

    def publish(self) -> None:
        held = {self.stored_as(path): data for path, data in self.files.items()}
        bucket = self.server.buckets["models"]
        bucket.objects = {"org/tinier/config.json": b"{}"} | held
        bucket.etags = {}
        if not self.tells_digests:  # as uploads in parts have it
            bucket.etags = {key: f"{hashlib.md5(data).hexdigest()}-2" for key, data in held.items()}


class GoogleStand(ServedStand):
    """Storage under its own name, behind a proxy that asks for a password; a login's token endpoint beside it."""

    scheme = Scheme.GS
    listing = "/storage/v1/b/demo-bucket"
    bytes_from_storage = False
    moved_to = f"https://{ELSEWHERE}"
    named = "GOOGLE_APPLICATION_CREDENTIALS"
    uri = ModelUri.parse("gs://demo-bucket/models/tiny")
    missing = ModelUri.parse("gs://demo-bucket/models/other")
    server: _Google

    def make_server(self) -> _Google:
        server = _Google()
        server.require_token()
        server.put("demo-bucket", "models/tinier/config.json", b"{}")
        return server

    def make_line(self) -> Line:
        return Line(self.server.port, credentials=f"user:{PROXY_PASSWORD}")

    def environ_at(self, endpoint: str) -> dict[str, str]:
        login = self.directory / "login.json"
        about = {"type": "authorized_user", "client_id": "me", "client_secret": GOOGLE_SECRET}
        token_uri = f"http://127.0.0.1:{self.server.port}/token"
        login.write_text(json.dumps({**about, "refresh_token": GOOGLE_REFRESH, "token_uri": token_uri}))
        return {
            "GOOGLE_APPLICATION_CREDENTIALS": str(login),
            "HTTPS_PROXY": f"http://user:{PROXY_PASSWORD}@127.0.0.1:{self.line.port}",
            "NO_PROXY": "127.0.0.1",
        }

    @property
    def own_secrets(self) -> tuple[str, ...]:
        return (GOOGLE_SECRET, GOOGLE_REFRESH, *self.server.tokens)

    def refusal(self, status: int, text: str) -> Reply:
        return json_reply(status, {"error": {"code": status, "message": text}})

    def stored_as(self, path: str) -> str:
        return f"models/tiny/{path}"

    def without_preconditions(self, call: Call) -> Call:
        found = self.server.buckets["demo-bucket"].get("/".join(call.segments[5:]))
        if found is None or "generation" not in call.parameters:
            return call
        return replace(call, query=f"alt=media&generation={found.generation}")

    def publish(self) -> None:
        bucket = self.server.buckets["demo-bucket"]
        wanted = {self.stored_as(path): data for path, data in self.files.items()}
        for key in [each for each in bucket if each.startswith("models/tiny/") and each not in wanted]:
            del bucket[key]
        for key, data in wanted.items():
            if key not in bucket or bucket[key].data != data:
                listed = {} if self.tells_digests else {"storageClass": "STANDARD"}
                self.server.put("demo-bucket", key, data, **listed)


class AzureStand(ServedStand):
    """An account that is opened by its key."""

    scheme = Scheme.AZ
    listing = f"/{ACCOUNT}/models"
    bytes_from_storage = False
    named = "AZURE_STORAGE_KEY"
    uri = ModelUri.parse(f"az://{ACCOUNT}/models/org/tiny")
    missing = ModelUri.parse(f"az://{ACCOUNT}/models/org/other")
    server: _Azure

    def make_server(self) -> _Azure:
        server = _Azure()
        server.put("models", "org/tinier/config.json", b"{}")
        return server

    def environ_at(self, endpoint: str) -> dict[str, str]:
        return {"AZURE_STORAGE_BLOB_ENDPOINT": f"{endpoint}/{ACCOUNT}"}

    @property
    def own_secrets(self) -> tuple[str, ...]:
        return (AZURE_KEY,)

    def refusal(self, status: int, text: str) -> Reply:
        body = f"<Error><Code>AuthenticationFailed</Code><Message>{_escaped(text)}</Message></Error>"
        return Reply(status, {"x-ms-error-code": "AuthenticationFailed"}, body.encode())

    def stored_as(self, path: str) -> str:
        return f"org/tiny/{path}"

    def without_preconditions(self, call: Call) -> Call:
        self.server.is_public = True  # a key's signature covers If-Match
        left_out = ("if-match", "authorization")
        return replace(call, headers={name: value for name, value in call.headers.items() if name not in left_out})

    def publish(self) -> None:
        held = self.server.containers["models"]
        wanted = {self.stored_as(path): data for path, data in self.files.items()}
        for name in [each for each in held if each.startswith("org/tiny/") and each not in wanted]:
            del held[name]
        for name, data in wanted.items():
            if name not in held or held[name].data != data:
                if self.tells_digests:
                    self.server.put("models", name, data)
                else:
                    self.server.put("models", name, data, Content_MD5="")


class SignedAzureStand(AzureStand):
    """An account that is opened by a shared access signature, which Azure wants in URLs."""

    named = "AZURE_STORAGE_SAS_TOKEN"
    signs_urls = True
    _SIGNATURE = f"sv=2021-12-02&sr=c&sp=rl&se=2126-01-01T00%3A00%3A00Z&sig={quote(AZURE_SIGNATURE, safe='')}"

    def make_server(self) -> _Azure:
        server = super().make_server()
        server.accept(self._SIGNATURE)
        return server

    def environ_at(self, endpoint: str) -> dict[str, str]:
        return {**super().environ_at(endpoint), "AZURE_STORAGE_SAS_TOKEN": self._SIGNATURE}

    @property
    def own_secrets(self) -> tuple[str, ...]:
        return (AZURE_SIGNATURE,)


class _Web(FaultyServer):
    """A server of static files, as nginx has them: strong etags, ranges, a password."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        super().__init__()

    def answer(self, call: Call) -> Reply:
        if call.headers.get("authorization") != f"Bearer {HTTP_TOKEN}":
            return Reply(401, {"WWW-Authenticate": "Bearer"}, b"who are you?")
        path = "/".join(call.segments)
        if path not in self.files:
            return Reply(404, {}, b"not here")
        data = self.files[path]
        return Reply(200, {}, data, path.removeprefix("models/tiny/"), hashlib.md5(data).hexdigest())


class _InterposedWeb(Interposed, _Web):
    pass


class WebStand(ServedStand):
    scheme = Scheme.HTTP
    listing = "/models/tiny/"
    bytes_from_storage = False
    can_list = False
    named = "LADING_HTTP_TOKEN"
    server: _InterposedWeb

    @property
    def uri(self) -> ModelUri:
        return ModelUri.parse(f"{self.line.endpoint}/models/tiny")

    @property
    def missing(self) -> ModelUri:
        return ModelUri.parse(f"{self.line.endpoint}/models/other")

    def make_server(self) -> _InterposedWeb:
        return _InterposedWeb()

    def environ_at(self, endpoint: str) -> dict[str, str]:
        return {}

    @property
    def own_secrets(self) -> tuple[str, ...]:
        return (HTTP_TOKEN,)

    def refusal(self, status: int, text: str) -> Reply:
        return Reply(status, {"Content-Type": "text/plain"}, text.encode())

    def publish(self) -> None:
        self.server.files = {f"models/tiny/{path}": data for path, data in self.files.items()}

    def listed(self, source: Source) -> Manifest:
        return Manifest.of(self.uri, None, [self.entry(source, path) for path in self.files])

    def page_by(self, count: int) -> bool:
        return False


class TlsWebStand(WebStand):
    """The same over TLS, where another https host is the other host."""

    scheme = Scheme.HTTPS
    moved_to = "https://localhost:{port}"

    def make_line(self) -> Line:
        return Line(self.server.port, tls=True)


STANDS: dict[str, type[Stand]] = {
    "hf": HubStand,
    "ngc": NgcStand,
    "modelscope": ModelScopeStand,
    "s3": S3Stand,
    "gs": GoogleStand,
    "az": AzureStand,
    "az-sas": SignedAzureStand,
    "http": WebStand,
    "https": TlsWebStand,
    "local": DirectoryStand,
    "path": BareDirectoryStand,
}
SERVED = [name for name, kind in STANDS.items() if issubclass(kind, ServedStand)]


@contextmanager
def standing(name: str, directory: Path, files: Mapping[str, bytes]) -> Iterator[Stand]:
    """The stand of that name, holding ``files``; closed at the end."""
    stand = STANDS[name](directory, files)
    try:
        yield stand
    finally:
        stand.close()


def _bearers(requests: list[Request]) -> set[str]:
    sent = {each.headers.get("authorization", "") for each in requests}
    return {text.removeprefix("Bearer ") for text in sent if text.startswith("Bearer ")}


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
