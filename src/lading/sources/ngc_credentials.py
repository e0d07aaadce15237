"""What NGC is asked with: a key that is a bearer token itself, or one that has to be exchanged for such tokens.

A key that starts with ``nvapi-``, and a JWT, is the token. Any other is exchanged at ``NGC_CLI_AUTH_URL``; the token is
kept per org and team, replaced before it expires, and once more when it is refused. Nothing here shows a key.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from threading import Lock

from lading.errors import SourceProtocolError, Unauthorized
from lading.secret import Secret
from lading.sources.answer import Answer
from lading.sources.quoting import it_says
from lading.sources.urls import redacted

KEYS_PAGE = "https://org.ngc.nvidia.com/setup/api-keys"

_BEARER_KEY = re.compile(r"nvapi-.*|[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
_RENEW_SECONDS = 60.0
Get = Callable[[str, Mapping[str, str]], Answer]


class NgcLogin:
    """A key and the tokens it stands for. ``name`` is its variable's. Safe to use from several threads."""

    def __init__(self, key: Secret, name: str, auth_url: str, clock: Callable[[], float]) -> None:
        self.name = name
        self._key = key
        self._is_bearer = _BEARER_KEY.fullmatch(key.reveal()) is not None
        self._auth_url = auth_url.rstrip("/")
        self._clock = clock
        self._tokens: dict[str, tuple[Secret, float]] = {}
        self._sent: list[Secret] = []
        self._lock = Lock()

    def token(self, scopes: str, get: Get) -> Secret:
        """A bearer token for the scopes, a part of a query; asked for with ``get`` where none is fresh enough.

        Raises Unauthorized where the key is not valid, SourceProtocolError, and what ``get`` raises.
        """
        if self._is_bearer:
            return self._key
        with self._lock:
            token, expires = self._tokens.get(scopes, (None, 0.0))
            if token is None or self._clock() >= expires:
                token, expires = self._tokens[scopes] = self._exchanged(scopes, get)
            return token

    def forget(self, token: Secret) -> bool:
        """Drop a token that was refused; whether another may be had."""
        if self._is_bearer:
            return False
        with self._lock:
            self._tokens = {scopes: kept for scopes, kept in self._tokens.items() if kept[0] != token}
        return True

    def rejected(self, where: str, answer: Answer) -> Unauthorized:
        """The error for a key that ``where`` does not know."""
        return Unauthorized(
            f"{where} rejects {self.name}{self.said(answer)}",
            remedy=f"make a new key at {KEYS_PAGE} and set {self.name} to it, or unset it for public models",
        )

    def said(self, answer: Answer) -> str:
        """NGC's own sentence as a clause, without the key and its tokens should they be repeated there."""
        return said(answer, self._key.reveal(), *(each.reveal() for each in self._sent))

    def _exchanged(self, scopes: str, get: Get) -> tuple[Secret, float]:
        url = f"{self._auth_url}/token?service=ngc&{scopes}"
        basic = b64encode(f"$oauthtoken:{self._key.reveal()}".encode()).decode()
        self._sent.append(Secret(basic))
        answer = get(url, {"Authorization": f"Basic {basic}"})
        if answer.status in (400, 401, 403):
            raise self.rejected(self._auth_url, answer)
        try:
            match answer.json(dict):
                case {"token": str(token), **rest} if answer.status == 200 and token.isascii() and token.isprintable():
                    self._sent.append(Secret(token))
                    return Secret(token), self._clock() + _fresh_seconds(rest.get("expires_in"))
        except ValueError:
            pass
        raise SourceProtocolError(
            f"{redacted(url)} gives no token for {self.name}: it answers HTTP {answer.status}",
            remedy=f"check that NGC_CLI_AUTH_URL={self._auth_url} is NGC's authentication service; "
            "keys that start with nvapi- need none",
        )


def said(answer: Answer, *secrets: str) -> str:
    """NGC's own sentence as a clause, where it sends one; ``secrets`` are not shown."""
    try:
        match answer.json(dict):
            case {"requestStatus": {"statusDescription": str(text)}} if text:
                return it_says(text, *secrets)
    except ValueError:
        pass
    return ""


def _fresh_seconds(expires_in: object) -> float:
    """How long a token is used: until shortly before it expires; until it is refused where NGC does not say when."""
    if not isinstance(expires_in, int | float) or not 0 < expires_in < 1e9:
        return float("inf")
    return max(expires_in - _RENEW_SECONDS, expires_in / 2)
