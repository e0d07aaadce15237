"""One request answered: by the management application, or by the engine through a splice.

An exchange is told what its client sends and what becomes of it, and speaks to the client through :class:`Client`.
It never looks at framing of the request: that is the connection's work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from typing import Any, Protocol

from lading.backends.interface import Endpoint
from lading.gateway.context import Context
from lading.gateway.cors import HeadEditor
from lading.gateway.heads import RequestHead
from lading.gateway.replies import BadReply, LocalReply, ReplyScanner, error_reply
from lading.gateway.upstream import Upstream, open_upstream

# Engines close idle connections (uvicorn after 5 s). Younger ones are safe to reuse but for a race of microseconds.
_REUSE_WITHIN_SECONDS = 2.0


class Hold(Enum):
    """Why nothing is read from a client for now."""

    CONNECTING = auto()
    ENGINE_FULL = auto()
    BUFFER_FULL = auto()


class Client(Protocol):
    """What an exchange needs of the connection that it answers on."""

    def send(self, data: bytes) -> None:
        """Pass on reply bytes."""

    def reply(self, reply: LocalReply) -> None:
        """Answer with a reply of ours, which ends the exchange; only before any :meth:`send`."""

    def done(self, *, keep: bool, upstream: Upstream | None = None) -> None:
        """The reply is complete. ``upstream`` is handed back, to be used again if the request is complete too."""

    def cut(self, *, reset: bool) -> None:
        """The reply will never be complete; the client must notice. ``reset`` where a plain end would look proper."""

    def switch(self) -> None:
        """From now on both directions are plain bytes."""

    def send_eof(self) -> None:
        """Nothing more comes from the engine; only after :meth:`switch`."""

    def hold(self, reason: Hold) -> None:
        """Stop reading from the client."""

    def let_go(self, reason: Hold) -> None:
        """Read on, unless another reason holds."""


class Exchange(Protocol):
    """One request on its way."""

    @property
    def status(self) -> int:
        """Status of the reply, 0 before it is known."""

    @property
    def reply_begun(self) -> bool:
        """Whether bytes of the reply went to the client."""

    def start(self, body: bytes) -> None:
        """Begin; ``body`` is the part that came with the head."""

    def body_received(self, data: bytes) -> None:
        """The client sent more of the body; after a switch, anything."""

    def body_ended(self) -> None:
        """After a switch: the client will send no more."""

    def client_full(self) -> None:
        """The client does not read."""

    def client_drained(self) -> None:
        """The client reads again."""

    def abort(self) -> None:
        """The client is gone, or its request turned out malformed: stop, and say nothing more to it."""


Answer = Callable[[], Coroutine[Any, Any, LocalReply]]


class LocalExchange:
    """A request that ``answer`` answers here. Its body is of no interest."""

    def __init__(self, client: Client, head: RequestHead, answer: Answer) -> None:
        self.status = 0
        self.reply_begun = False
        self._client = client
        self._head = head
        self._answer = answer
        self._task: asyncio.Task[LocalReply] | None = None

    def start(self, _body: bytes) -> None:
        """Ask for the answer."""
        self._task = asyncio.get_running_loop().create_task(self._answer())
        self._task.add_done_callback(self._finish)

    def body_received(self, data: bytes) -> None:
        """Nothing to do."""

    def body_ended(self) -> None:
        """Nothing to do."""

    def client_full(self) -> None:
        """Nothing to do: the reply is small."""

    def client_drained(self) -> None:
        """Nothing to do."""

    def abort(self) -> None:
        """Stop the one who answers."""
        task, self._task = self._task, None
        if task:
            task.cancel()

    def _finish(self, task: asyncio.Task[LocalReply]) -> None:
        if task is not self._task:
            return  # aborted; perhaps too late to be cancelled
        if error := task.exception():
            context = {"message": f"the management application failed on {self._head.path}", "exception": error}
            task.get_loop().call_exception_handler(context)
            reply = error_reply(500, "the gateway failed to answer", "internal_error")
        else:
            reply = task.result()
        self.status = reply.status
        self._client.reply(reply)


class EngineExchange:
    """A request spliced to the engine: bytes pass as they come, a full side stops the other one.

    ``idle`` is a connection to be used again if it is still good; the exchange owns it from now on. When it turns out
    to be closed, it is replaced once, where the engine cannot have acted on the request.
    """

    def __init__(
        self, client: Client, head: RequestHead, endpoint: Endpoint, idle: Upstream | None, context: Context
    ) -> None:
        self._client = client
        self._head = head
        self._endpoint = endpoint
        self._idle = idle
        self._traffic = context.traffic
        self._connect_seconds = context.limits.connect_seconds
        self._began = time.monotonic()
        self._scanner = ReplyScanner(is_head=head.method == "HEAD", upgrade_offered=head.upgrade)
        fields = context.admission.reply_fields(head)
        self._editor = HeadEditor(fields) if fields else None
        self._engine_spoke = False
        self._upstream: Upstream | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waiting = bytearray()
        self._reused = False
        self._body_sent = False
        self._is_pipe = False
        self.reply_begun = False
        self._client_is_full = False

    @property
    def status(self) -> int:
        """Status of the engine's reply, 0 before it is known."""
        return self._scanner.status

    def start(self, body: bytes) -> None:
        """Send the head and what came with it."""
        self._body_sent = bool(body)
        idle, self._idle = self._idle, None
        if idle is not None and self._is_fresh(idle):
            self._reused = True
            idle.user = self
            self._upstream = idle
            idle.write(self._head.raw + body)
        else:
            if idle is not None:
                idle.abort()
            self._waiting += self._head.raw + body
            self._connect()

    def body_received(self, data: bytes) -> None:
        """Pass bytes on, or keep them until there is a connection (reading is held meanwhile)."""
        self._body_sent = True
        if self._upstream is None:
            self._waiting += data
        else:
            self._upstream.write(data)

    def body_ended(self) -> None:
        """Pass on the end of a pipe's input."""
        if self._upstream is not None:
            self._upstream.write_eof()

    def client_full(self) -> None:
        """Stop reading from the engine."""
        self._client_is_full = True
        if self._upstream is not None:
            self._upstream.pause()

    def client_drained(self) -> None:
        """Read on from the engine."""
        self._client_is_full = False
        if self._upstream is not None:
            self._upstream.resume()

    def abort(self) -> None:
        """Close the engine's connection, which makes it abort the generation."""
        if self._connecting:
            self._connecting.cancel()
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None

    # What the engine's connection calls.

    def reply_received(self, data: bytes) -> None:
        """Follow the reply and pass it on."""
        if self._is_pipe:
            self._client.send(data)
            return
        was_silent = self._scanner.status == 0
        self._engine_spoke = True
        try:
            self._scanner.feed(data)
            passed = self._editor.feed(data) if self._editor else data
        except BadReply as error:
            self.abort()
            self._fail(502, f"the engine's answer could not be passed on: {error}")
            return
        if was_silent and self._scanner.status:
            self._traffic.replied(time.monotonic() - self._began)
        if passed:
            self.reply_begun = True
            self._client.send(passed)
        if self._scanner.upgraded:
            self._is_pipe = True
            self._client.switch()
        elif self._scanner.complete:
            self._complete()

    def reply_ended(self) -> bool:
        """In a pipe, the other direction stays open."""
        if self._is_pipe:
            self._client.send_eof()
        return self._is_pipe

    def upstream_lost(self, error: Exception | None) -> None:
        """The proper end of the reply, a reason to try once more, or a failure."""
        self._upstream = None
        if self._is_pipe or (self._scanner.ends_with_connection and error is None):
            self._client.done(keep=False)
        elif self._may_retry():
            self._reused = False
            self._waiting += self._head.raw
            self._connect()
        else:
            self._fail(502, "the engine closed the connection before its answer was complete")

    def upstream_full(self) -> None:
        """Stop reading from the client."""
        self._client.hold(Hold.ENGINE_FULL)

    def upstream_drained(self) -> None:
        """Read on from the client."""
        self._client.let_go(Hold.ENGINE_FULL)

    # Steps.

    def _is_fresh(self, upstream: Upstream) -> bool:
        young = time.monotonic() - upstream.idle_since < _REUSE_WITHIN_SECONDS
        return upstream.is_open and not upstream.is_full and upstream.endpoint == self._endpoint and young

    def _may_retry(self) -> bool:
        has_body = self._head.chunked or self._head.content_length > 0
        return (
            self._reused and not self._engine_spoke and not self._body_sent and (has_body or self._head.is_idempotent)
        )

    def _connect(self) -> None:
        self._client.hold(Hold.CONNECTING)
        self._connecting = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        try:
            upstream = await open_upstream(self._endpoint, self, self._connect_seconds)
        except OSError as error:
            self._client.let_go(Hold.CONNECTING)
            self._fail(503, f"the engine cannot be reached at {self._endpoint}: {error or type(error).__name__}")
            return
        finally:
            self._connecting = None
        if upstream.user is not self:
            return  # lost again already, and dealt with
        self._upstream = upstream
        upstream.write(bytes(self._waiting))
        self._waiting.clear()
        if self._client_is_full:
            upstream.pause()
        self._client.let_go(Hold.CONNECTING)

    def _complete(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is None:
            return
        keep = self._scanner.keep_alive
        if keep:
            upstream.release(time.monotonic())
        else:
            upstream.abort()
        self._client.done(keep=keep, upstream=upstream if keep else None)

    def _fail(self, status: int, message: str) -> None:
        if self.reply_begun:
            self._client.cut(reset=self._scanner.ends_with_connection)
        else:
            retry = ((b"retry-after", b"5"),) if status == 503 else ()
            self._client.reply(error_reply(status, message, "engine_unavailable", headers=retry))
