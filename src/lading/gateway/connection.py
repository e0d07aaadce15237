"""One client: requests in order, one at a time, each answered by an exchange before the next one begins.

::

    HEAD ──head──▶ EXCHANGE ──reply done──▶ HEAD          kept alive
      │               │  └─ body unfinished ─▶ DRAIN ──▶ HEAD
      │               └─ 101 ─▶ PIPE ─▶ CLOSED
      └─ refused ─▶ LINGER ─▶ CLOSED                      input is dropped, so that the reply arrives

Rules: a request begins only when the client has taken enough of the replies before it; while one is under way, at most
one head's worth of later bytes is kept. End of input from the client means that it is gone (as nginx and Go take it):
an engine request is aborted at once and none is begun; replies of ours are still sent.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import time
from dataclasses import replace
from enum import Enum, auto
from functools import partial

from lading.backends.interface import Endpoint
from lading.gateway.admission import Admitted
from lading.gateway.asgi import call
from lading.gateway.bodies import Body, open_body
from lading.gateway.context import Context
from lading.gateway.heads import BadRequest, HeadBuffer, RequestHead, parse_head
from lading.gateway.management import MANAGEMENT_PATHS
from lading.gateway.replies import LocalReply, as_answer, refusal
from lading.gateway.splice import EngineExchange, Exchange, Hold, LocalExchange
from lading.gateway.upstream import Upstream, end_output

_PIECE_BYTES = 16384
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class _State(Enum):
    HEAD = auto()
    EXCHANGE = auto()
    PIPE = auto()
    DRAIN = auto()
    LINGER = auto()
    CLOSED = auto()


class ClientConnection(asyncio.Protocol):
    """A :class:`lading.gateway.splice.Client` on a socket.

    ``deadline`` is monotonic; when it passes, the gateway calls :meth:`expire`.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._limits = context.limits
        self._state = _State.HEAD
        self._heads = HeadBuffer(context.limits.head_bytes)
        self._head: RequestHead | None = None
        self._key_name: str | None = None
        self._body: Body | None = None
        self._exchange: Exchange | None = None
        self._upstream: Upstream | None = None
        self._holds: set[Hold] = set()
        self._client_is_full = False
        self._input_ended = False
        self._output_ended = False
        self._half_closes = True
        self._transport: asyncio.Transport
        self.deadline = math.inf

    # What the loop calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a stream's
        """A client is here."""
        self._transport = transport
        self._half_closes = transport.can_write_eof()  # not TLS
        if self._context.closing:  # its handshake took until now
            self._state = _State.CLOSED
            transport.abort()
        self._context.add(self)
        self.deadline = time.monotonic() + self._limits.head_seconds

    def data_received(self, data: bytes) -> None:
        """Pass input to whoever waits for it in this state."""
        match self._state:
            case _State.HEAD:
                if not len(self._heads):
                    self.deadline = time.monotonic() + self._limits.head_seconds
                self._heads.add(data)
                self._advance()
            case _State.EXCHANGE:
                self._take_body(data)
            case _State.PIPE if self._exchange:
                self._exchange.body_received(data)
            case _State.DRAIN:
                self._drain(data)
            case _:
                pass

    def eof_received(self) -> bool:
        """The client sends no more; True while it is still to be answered, which TLS makes impossible."""
        self._input_ended = True
        if self._state is _State.PIPE and self._exchange:
            self._exchange.body_ended()
            return self._half_closes and not self._output_ended
        if isinstance(self._exchange, LocalExchange):
            return self._half_closes
        if self._exchange:
            self._transport.abort()
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        """The client is gone: nobody works for it any longer."""
        self._state = _State.CLOSED
        self._context.remove(self)
        if self._exchange:
            self._exchange.abort()
            self._end_exchange()
        if self._upstream:
            self._upstream.abort()

    def pause_writing(self) -> None:
        """The client does not read."""
        self._client_is_full = True
        if self._exchange:
            self._exchange.client_full()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._client_is_full = False
        if self._exchange:
            self._exchange.client_drained()
        self._advance()

    # What an exchange calls.

    def send(self, data: bytes) -> None:
        """Write reply bytes."""
        self._transport.write(data)

    def reply(self, reply: LocalReply) -> None:
        """Write a reply of ours and end the exchange."""
        keep = self._may_continue()
        with_body = self._head is None or self._head.method != "HEAD"
        self.send(self._for_browsers(reply).encode(with_body=with_body, keep_alive=keep))
        self._finish(keep, None, reply.status)

    def done(self, *, keep: bool, upstream: Upstream | None = None) -> None:
        """End the exchange; keep the engine's connection if both sides are at a request's border."""
        self._finish(keep and self._may_continue(), upstream, None)

    def cut(self, *, reset: bool) -> None:
        """End the exchange and the connection in the middle of a reply."""
        self._end_exchange()
        if reset:
            self._reset()
        else:
            self._close(linger=False)

    def switch(self) -> None:
        """Become a pipe; bytes that came early go first."""
        self._state = _State.PIPE
        early = self._heads.rest()
        self._hold_if_full()
        if early and self._exchange:
            self._exchange.body_received(early)

    def send_eof(self) -> None:
        """Pass on the end of the engine's output."""
        self._output_ended = True
        if self._input_ended or not self._half_closes:
            self._transport.close()
        else:
            end_output(self._transport)

    def hold(self, reason: Hold) -> None:
        """Stop reading."""
        self._holds.add(reason)
        self._transport.pause_reading()

    def let_go(self, reason: Hold) -> None:
        """Read on when nothing else holds."""
        if reason in self._holds:
            self._holds.remove(reason)
            if not self._holds:
                self._transport.resume_reading()

    # What the gateway calls.

    def expire(self) -> None:
        """The deadline passed."""
        if self._state is _State.HEAD and len(self._heads):
            self._refuse(BadRequest(408, f"no whole request head within {self._limits.head_seconds:.0f} seconds"))
        elif self._state in (_State.HEAD, _State.LINGER):
            self._close(linger=False)
        else:
            self.abort()

    @property
    def is_busy(self) -> bool:
        """Whether a reply is under way, as far as can be told from here."""
        in_exchange = self._state in (_State.EXCHANGE, _State.PIPE)
        # A TLS transport that closes has handed on what it had, and cannot be asked any more.
        is_asked = self._half_closes or not self._transport.is_closing()
        return in_exchange or self._client_is_full or (is_asked and self._transport.get_write_buffer_size() > 0)

    def retire(self) -> None:
        """Close now if no reply is under way, else after it."""
        if self._state in (_State.HEAD, _State.DRAIN):
            self._close(linger=False)

    def abort(self) -> None:
        """Close now, whatever is under way."""
        self._transport.abort()

    # Steps.

    def _advance(self) -> None:
        """Begin the next request if there is one and the client has room for its reply."""
        if self._state is not _State.HEAD:
            return
        try:
            raw = self._heads.take() if not self._client_is_full else None
            if raw is not None:
                self._begin(parse_head(raw))
        except BadRequest as verdict:
            self._refuse(verdict)
        self._hold_if_full()

    def _begin(self, head: RequestHead) -> None:
        verdict = self._context.admission.admit(head)
        refused = verdict if isinstance(verdict, LocalReply) else None
        if isinstance(verdict, Admitted):
            head, self._key_name = verdict.head, verdict.key_name
        else:
            self._key_name = None
        engine = None if refused else self._engine_for(head)
        if engine and self._input_ended:
            self._close(linger=False)
            return
        body = open_body(head, self._context.admission.body_bytes)
        here = self._take_buffered(body)
        self._head, self._body = head, body
        self._exchange = LocalExchange(self, head, as_answer(refused)) if refused else self._open_exchange(head, engine)
        self._state = _State.EXCHANGE
        self.deadline = math.inf
        self._context.traffic.began()
        self._exchange.start(here)

    def _take_buffered(self, body: Body) -> bytes:
        # In pieces: a long queue of small requests must not be copied once for each of them.
        here = bytearray()
        while not body.complete and (piece := self._heads.peek(_PIECE_BYTES)):
            taken = body.take(piece)
            here += piece[:taken]
            self._heads.drop(taken)
        return bytes(here)

    def _engine_for(self, head: RequestHead) -> Endpoint | None:
        """Where the request goes; None for the management application."""
        if head.path in MANAGEMENT_PATHS or not self._context.status.ready:
            return None
        return self._context.endpoint

    def _open_exchange(self, head: RequestHead, engine: Endpoint | None) -> Exchange:
        if engine is None:
            return LocalExchange(self, head, partial(call, self._context.app, head))
        idle, self._upstream = self._upstream, None
        return EngineExchange(self, head, engine, idle, self._context)

    def _take_body(self, data: bytes) -> None:
        assert self._body and self._exchange  # noqa: S101 - true in this state
        try:
            taken = self._body.take(data) if not self._body.complete else 0
        except BadRequest as verdict:
            self._refuse_body(verdict)
            return
        if taken:
            self._exchange.body_received(data[:taken] if taken < len(data) else data)
        if taken < len(data):
            self._heads.add(data[taken:])
            self._hold_if_full()

    def _hold_if_full(self) -> None:
        if len(self._heads) >= self._limits.head_bytes:
            self.hold(Hold.BUFFER_FULL)
        elif Hold.BUFFER_FULL in self._holds:
            self.let_go(Hold.BUFFER_FULL)

    def _drain(self, data: bytes) -> None:
        assert self._body  # noqa: S101 - true in this state
        taken = self._body.take(data)
        if self._body.complete:
            self._heads.add(data[taken:])
            self._await_head()

    def _finish(self, keep: bool, upstream: Upstream | None, status: int | None) -> None:
        body_complete = self._body is None or self._body.complete
        self._end_exchange(status)
        if upstream and keep and body_complete:
            self._upstream = upstream
        elif upstream:
            upstream.abort()
        if not keep or (self._input_ended and not body_complete):
            self._close(linger=not body_complete or len(self._heads) > 0)
        elif body_complete:
            self._await_head()
        else:
            self._state = _State.DRAIN
            self.deadline = time.monotonic() + self._limits.head_seconds

    def _await_head(self) -> None:
        self._state = _State.HEAD
        limits = self._limits
        self.deadline = time.monotonic() + (limits.head_seconds if len(self._heads) else limits.idle_seconds)
        self._advance()
        if self._input_ended and self._state is _State.HEAD:
            self._close(linger=False)

    def _may_continue(self) -> bool:
        """Whether another request may follow the current one."""
        if self._head is None or self._body is None or not self._head.keep_alive:
            return False
        left = self._body.remaining_bytes
        drainable = left == 0 or (left is not None and left <= self._limits.drain_bytes)
        waits = left != 0 and self._head.expects_continue
        return drainable and not waits and not self._context.closing

    def _end_exchange(self, status: int | None = None) -> None:
        if self._exchange and self._head:
            status = self._exchange.status if status is None else status
            self._context.traffic.ended(self._head.path, status, self._key_name)
        self._exchange = None
        self.let_go(Hold.CONNECTING)
        self.let_go(Hold.ENGINE_FULL)

    def _refuse(self, verdict: BadRequest) -> None:
        self._context.traffic.refused(verdict.status)
        self.send(refusal(verdict).encode(with_body=True, keep_alive=False))
        self._close(linger=True)

    def _refuse_body(self, verdict: BadRequest) -> None:
        assert self._exchange  # noqa: S101 - true in this state
        begun = self._exchange.reply_begun
        self._exchange.abort()
        self._end_exchange(verdict.status)
        if not begun:
            self.send(self._for_browsers(refusal(verdict)).encode(with_body=True, keep_alive=False))
        self._close(linger=not begun)

    def _for_browsers(self, reply: LocalReply) -> LocalReply:
        fields = self._context.admission.reply_fields(self._head) if self._head else None
        return replace(reply, headers=(*reply.headers, *fields)) if fields else reply

    def _close(self, *, linger: bool) -> None:
        self._heads.rest()
        self._hold_if_full()
        if linger and not self._input_ended:
            self._state = _State.LINGER
            self.deadline = time.monotonic() + self._limits.linger_seconds
            if self._half_closes:
                end_output(self._transport)
        else:
            self._state = _State.CLOSED
            self.deadline = time.monotonic() + self._limits.idle_seconds
            self._transport.close()

    def _reset(self) -> None:
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._state = _State.CLOSED
        self._transport.abort()
