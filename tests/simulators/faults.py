"""The faults a simulated server can be told to commit, and what each of them puts on the wire.

A fault is a value. ``FaultQueue`` remembers which are armed for which requests; ``script`` turns the ones that damage a
body into the steps the server carries out. Nothing here touches a socket. Rules every fault keeps:

* it is used up only by a response it can harm: ``CutAfter(20_000)`` waits for a body longer than 20 000 bytes;
* a response suffers at most one fault of each kind, so two armed ``Status`` faults meet two requests, in order.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import Literal, TypeVar

Host = Literal["hub", "cdn"]


@dataclass(frozen=True, slots=True)
class CutAfter:
    """Close the connection after this many body bytes of the response: FIN, or RST with ``reset``."""

    bytes: int
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Truncate:
    """The stored copy ends at this offset of the file: the head promises it all, the body stops there, then FIN.

    Unlike ``CutAfter`` it counts from the start of the file, so no resumed request gets past it.
    """

    to_bytes: int


@dataclass(frozen=True, slots=True)
class Stall:
    """Send nothing for ``seconds`` once this many body bytes are out (0: right after the head), then go on."""

    after_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Throttle:
    """Send each body no faster than this; every connection has the rate to itself."""

    bytes_per_second: int


@dataclass(frozen=True, slots=True)
class Corrupt:
    """Invert the byte at this offset of the file, in a body of the right length."""

    offset: int


@dataclass(frozen=True, slots=True)
class Status:
    """Answer with this status instead of the real answer.

    ``retry_after`` (whole seconds) becomes ``Retry-After``, and for 429 also the hub's ``RateLimit`` header; ``body``
    None is the hub's JSON error; ``error_code`` becomes ``X-Error-Code``.
    """

    code: int
    retry_after: int | None = None
    body: bytes | None = None
    error_code: str | None = None


@dataclass(frozen=True, slots=True)
class IgnoreRange:
    """Answer a range request with 200 and the whole file."""


@dataclass(frozen=True, slots=True)
class WrongRange:
    """Answer a range request with 206 and a range one byte off, Content-Range and body agreeing.

    One byte earlier, or later for a range that starts at 0; not for a range that is the whole file.
    """


@dataclass(frozen=True, slots=True)
class WrongEtag:
    """Behave as if the file had just been replaced: other (X-Linked-)ETag, and preconditions on the true one fail."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Wait this long before the head of the response."""

    seconds: float


BodyFault = CutAfter | Truncate | Stall | Throttle | Corrupt
Fault = BodyFault | Status | IgnoreRange | WrongRange | WrongEtag | Latency
F = TypeVar("F", bound=Fault)


@dataclass(frozen=True, slots=True)
class Target:
    """What a fault is matched against: the request's path, the repository file it is about (if any), and the host."""

    path: str
    file: str | None
    host: Host


@dataclass(slots=True)
class _Armed:
    path: str | None
    fault: Fault
    on: Host | None
    left: int | None

    def meets(self, target: Target) -> bool:
        if self.on is not None and self.on != target.host:
            return False
        if self.path is None:
            return target.file is not None or isinstance(self.fault, Status | Latency)
        return target.path.startswith(self.path) if self.path.startswith("/") else target.file == self.path


class FaultQueue:
    """The armed faults, oldest first. Safe to use from many threads."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []
        self._lock = Lock()

    def arm(self, path: str | None, fault: Fault, *, times: int | None, on: Host | None) -> None:
        """Commit ``fault`` the next ``times`` times (None: for ever) it meets ``path``.

        ``path`` is a file's path in its repository, a request path when it starts with ``/`` (every request below it),
        or None: every file, and for ``Status`` and ``Latency`` every request.
        """
        with self._lock:
            self._armed.append(_Armed(path, fault, on, times))

    def take(self, kind: type[F], target: Target, harms: Callable[[F], bool] = lambda _: True) -> F | None:
        """The oldest fault of this kind that meets ``target`` and harms it, used up once; None when there is none."""
        with self._lock:
            for armed in self._armed:
                fault = armed.fault
                if armed.left != 0 and isinstance(fault, kind) and armed.meets(target) and harms(fault):
                    armed.left = None if armed.left is None else armed.left - 1
                    return fault
        return None

    def take_body_faults(self, target: Target, span: range) -> list[BodyFault]:
        """The faults that damage the body made of the file's bytes ``span``, each used up once."""
        taken = (
            self.take(Throttle, target),
            self.take(Stall, target, lambda stall: stall.after_bytes < len(span)),
            self.take(Corrupt, target, lambda corrupt: corrupt.offset in span),
            self.take(Truncate, target, lambda truncate: truncate.to_bytes < span.stop),
            self.take(CutAfter, target, lambda cut: cut.bytes < len(span)),
        )
        return [fault for fault in taken if fault is not None]

    def unused(self) -> list[Fault]:
        """Faults with uses left, for ever ones aside: what a test armed and never met."""
        with self._lock:
            return [armed.fault for armed in self._armed if armed.left]


@dataclass(frozen=True, slots=True)
class Send:
    """Send these bytes of the file, inverted when ``inverted``."""

    start: int
    stop: int
    inverted: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing for this long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the connection: FIN, or RST with ``reset``. Always the last step."""

    reset: bool


Step = Send | Pause | HangUp


def script(span: range, faults: list[BodyFault]) -> Iterator[Step]:
    """The steps that send the file's bytes ``span`` the way ``faults`` (at most one of each kind) have it."""
    end, hang_up, rate = span.stop, None, None
    pauses: dict[int, float] = {}
    inverted: int | None = None
    for fault in faults:
        match fault:
            case Throttle():
                rate = fault.bytes_per_second
            case Stall():
                pauses[span.start + fault.after_bytes] = fault.seconds
            case Corrupt():
                inverted = fault.offset
            case Truncate() if fault.to_bytes < end:
                end, hang_up = max(span.start, fault.to_bytes), HangUp(reset=False)
            case CutAfter() if span.start + fault.bytes < end:
                end, hang_up = span.start + fault.bytes, HangUp(reset=fault.reset)
    edges = {span.start, end, *pauses} | ({inverted, inverted + 1} if inverted is not None else set())
    for start, stop in pairwise(sorted(edge for edge in edges if edge <= end)):
        if start in pauses:
            yield Pause(pauses[start])
        yield from _paced(Send(start, stop, inverted=start == inverted), rate)
    if end in pauses:
        yield Pause(pauses[end])
    if hang_up is not None:
        yield hang_up


def _paced(send: Send, bytes_per_second: int | None) -> Iterator[Step]:
    if bytes_per_second is None:
        yield send
        return
    slice_bytes = max(1, bytes_per_second // 20)
    for start in range(send.start, send.stop, slice_bytes):
        stop = min(start + slice_bytes, send.stop)
        yield Pause((stop - start) / bytes_per_second)
        yield Send(start, stop, send.inverted)
