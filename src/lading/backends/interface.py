"""The port that every engine family implements: find it, say what it runs, start it, understand what it prints.

Engines are programs, never imported (design D1). A member is one file beside this one and one line in the mapping of
:mod:`lading.backends`. What a member returns are values; starting the process is the supervisor's work.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lading.backends.arguments import Flag
from lading.events import Phase
from lading.hardware.inventory import Device, Inventory
from lading.profiles.fit import Fit, Wish
from lading.profiles.rules import Support
from lading.secret import Secret

if TYPE_CHECKING:
    from lading.backends.environment import EngineEnvironments


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an engine listens: a Unix socket where it can, else a loopback port."""

    socket_path: Path | None = None
    port: int | None = None

    def __str__(self) -> str:
        return f"unix:{self.socket_path}" if self.socket_path else f"127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Installation:
    """An engine found on this machine.

    ``argv`` starts its command line (``("/…/bin/vllm",)``); ``environ`` is what every start of it needs.
    ``architectures`` are the model classes it says it runs; empty when it could not be asked. ``packages`` is where
    its source can be read; None for one that is only assumed. ``flags`` are those that its source names, for families
    whose builds of one version differ; else empty.
    """

    backend: str
    version: str
    device: Device
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    architectures: frozenset[str]
    origin: str
    packages: Path | None = None
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Argument:
    """Engine flags that belong together and who asked for them (design D6)."""

    tokens: tuple[str, ...]
    origin: str


@dataclass(frozen=True, slots=True)
class Limit:
    """A number that an engine is told, and who asked for it."""

    value: int
    origin: str


@dataclass(frozen=True, slots=True)
class LoraRoom:
    """What an engine keeps room for: adapters up to a rank, so many on the GPU and in RAM. None: its own default.

    ``is_open``: they are loaded and unloaded while it runs.
    """

    rank: Limit | None = None
    slots: Limit | None = None
    host_slots: Limit | None = None
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """All that a member needs to write a command.

    ``gpu_share`` is how much of each whole GPU the engine may take, however it counts itself; None: its own default.
    ``lora`` is the room for LoRA adapters; None: nothing was said of it.
    """

    installation: Installation
    fit: Fit
    inventory: Inventory
    directory: Path
    served_names: tuple[str, ...]
    user_arguments: tuple[Argument, ...]
    endpoint: Endpoint
    gpu_share: float | None = None
    lora: LoraRoom | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """A child to start: its argv with the origin of every argument, and its whole environment."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    arguments: tuple[Argument, ...]

    @property
    def head(self) -> tuple[str, ...]:
        """What of the argv comes before the arguments: the program and the model."""
        return self.argv[: len(self.argv) - sum(len(argument.tokens) for argument in self.arguments)]


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an engine ended, in a user's words, and what to do about it."""

    message: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class UserFlags:
    """What Lading must know of a user's engine flags: what they wish of the profile, and what the gateway owns."""

    wish: Wish
    model: str | None = None
    served_names: tuple[str, ...] = ()
    host: str | None = None
    port: int | None = None
    api_key: Secret | None = None


@dataclass(frozen=True, slots=True)
class LoraApi:
    """The paths by which a running engine loads and unloads LoRA adapters, and the variables that open them.

    ``host_slots`` is how many it shall keep in RAM where nobody said it; None: it keeps all.
    """

    load: str
    unload: str
    environ: Mapping[str, str] = field(default_factory=dict)
    host_slots: int | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """Speculative decoding as a user asks for it, of any engine.

    ``directory`` holds a draft model, None: the model's own layers draft. ``architecture`` is the draft model's.
    ``tokens`` are guessed ahead; None: as many as the engine likes. ``origin`` is what was set to ask for it.
    """

    directory: Path | None
    architecture: str
    tokens: int | None
    origin: str


class Backend(Protocol):
    """One engine family. Every one of them says that it is well at ``/health``."""

    @property
    def name(self) -> str:
        """``vllm``, ``sglang`` or ``tensorrt_llm``: the tag in profiles."""

    @property
    def flags(self) -> tuple[Flag, ...]:
        """The flags of the engine that Lading understands."""

    @property
    def lora_api(self) -> LoraApi | None:
        """How adapters are loaded while it runs; None where it has no way."""

    @property
    def has_many_names(self) -> bool:
        """Whether a model can have several names in the API."""

    def installations(self, search_path: str, engines: EngineEnvironments) -> list[Installation]:
        """The installations on this machine: on PATH, and Lading's own environments. Reads files, starts nothing."""

    def read_flags(self, tokens: Sequence[str]) -> UserFlags:
        """What ``tokens`` ask for; raises UsageError for a value of an owned flag that cannot be read. Pure."""

    def support(self, installation: Installation, architecture: str) -> Support:
        """What an installation can do with an architecture. Reads files, starts nothing."""

    def known_architectures(self, version: str) -> frozenset[str]:
        """What a release that need not be here runs at most; of any release where ``version`` is empty.

        Empty where that is not known.
        """

    def endpoint(self, installation: Installation, directory: Path) -> Endpoint:
        """Where a new engine shall listen: a socket in ``directory``, or a free loopback port."""

    def command(self, launch: Launch, environ: Mapping[str, str]) -> Command:
        """The command that serves ``launch``; ``environ`` is what the child inherits. Pure."""

    def speculation(self, draft: Draft, version: str) -> tuple[str, ...]:
        """The flags that ask an engine of ``version`` for ``draft``; raises UsageError where there are none. Pure."""

    def phase_of(self, line: str) -> Phase | None:
        """The start-up phase that a line of output announces, or None. Pure; unknown text means nothing."""

    def explain(self, lines: Sequence[str]) -> Cause | None:
        """The cause of a failed start, read from the engine's last lines, or None when they do not tell. Pure."""


def free_port() -> int:
    """A loopback port that nobody listens on now, for engines that cannot listen on a socket file."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
