"""Counts of the requests that pass the gateway. Touched by the loop's thread only."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

FIRST_BYTE_BUCKETS_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
CLIENT_GONE = 499
OTHER_ROUTE = "other"
INVALID_ROUTE = "invalid"

_ENGINE_ROUTES = frozenset(
    (
        "/health",
        "/v1/models",
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/tokenize",
        "/detokenize",
        "/rerank",
        "/pooling",
        "/score",
    )
)


class Traffic:
    """What :mod:`lading.gateway.metrics` tells of HTTP.

    ``requests`` counts ended ones by route and status; the status is :data:`CLIENT_GONE` where the client left before
    a reply began. ``by_key`` counts those that came with an API key, by its name and status. ``first_byte`` counts the
    engine's replies by bucket, the last one open-ended.
    """

    def __init__(self, local_routes: frozenset[str]) -> None:
        self._routes = _ENGINE_ROUTES | local_routes
        self.requests: Counter[tuple[str, int]] = Counter()
        self.by_key: Counter[tuple[str, int]] = Counter()
        self.in_flight = 0
        self.first_byte = [0] * (len(FIRST_BYTE_BUCKETS_SECONDS) + 1)
        self.first_byte_seconds = 0.0

    def began(self) -> None:
        """A request's head was read."""
        self.in_flight += 1

    def ended(self, path: str, status: int, key_name: str | None = None) -> None:
        """A request that had begun ended; ``status`` 0 means that no reply began."""
        self.in_flight -= 1
        # Paths come from clients: only known ones become labels, or a scanner could fill the memory.
        route = path if path in self._routes else OTHER_ROUTE
        self.requests[route, status or CLIENT_GONE] += 1
        if key_name is not None:
            self.by_key[key_name, status or CLIENT_GONE] += 1

    def refused(self, status: int) -> None:
        """Bytes that are no request were answered with ``status``."""
        self.requests[INVALID_ROUTE, status] += 1

    def replied(self, seconds: float) -> None:
        """The engine's reply began ``seconds`` after the request's head was read."""
        self.first_byte[bisect_left(FIRST_BYTE_BUCKETS_SECONDS, seconds)] += 1
        self.first_byte_seconds += seconds
