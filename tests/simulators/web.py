"""An HTTP server of files by path, as a plain mirror is: etags or times of change, ranges or none, a password or none."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from tests.simulators.server import Call, FaultyServer, Reply

CHANGED = "Sat, 01 Aug 2026 00:00:00 GMT"


class WebServer(FaultyServer):
    """``files`` by their decoded path, without the first slash. What it tells of them may be changed at any time."""

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        self.files = dict(files or {})
        self.has_etags = True
        self.authorization: str | None = None
        self.moved_to: str | None = None
        self.headers: dict[str, str] = {}
        super().__init__()

    def answer(self, call: Call) -> Reply:
        path = "/".join(call.segments)
        if self.moved_to and call.host == "hub":
            return Reply(302, {"Location": f"{self.moved_to}{call.path}"}, b"over there")
        if self.authorization and call.host == "hub" and call.headers.get("authorization") != self.authorization:
            return Reply(401, {"WWW-Authenticate": 'Basic realm="models"'}, b"who are you?")
        data = self.files.get(path)
        if data is None:
            return Reply(404, {}, b"<html>nothing here</html>")
        if self.has_etags:
            return Reply(200, self.headers, data, file=path, etag=sha256(data).hexdigest()[:16])
        return Reply(200, {"Last-Modified": CHANGED, **self.headers}, data, file=path)
