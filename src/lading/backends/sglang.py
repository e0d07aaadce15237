"""SGLang: found by its program or its interpreter on PATH, started on a loopback port, since it has no Unix socket.

``sglang serve`` where the installation has that program (0.5.5), else ``python -m sglang.launch_server``. Flags of the
user pass through untouched and win. What Lading owns are the model, the endpoint and the name. Spellings of 0.4.0 to
0.5.23, read from their wheels.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lading.backends import sglang_log
from lading.backends.arguments import Flag, Values, last_values
from lading.backends.distributions import Distribution, find_distribution
from lading.backends.engine_options import flags_of, read_wish
from lading.backends.environment import EngineEnvironments
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
from lading.profiles.lora import DEFAULT_RANK
from lading.profiles.rules import Support
from lading.secret import Secret

FLAGS = (
    *flags_of("sglang"),
    Flag("--model-path", short=("--model",)),
    Flag("--served-model-name"),
    Flag("--host", prefixes=False),
    Flag("--port", prefixes=False),
    Flag("--api-key", prefixes=False),
    Flag("--lora-paths", Values.MANY),
    Flag("--lora-target-modules", Values.MANY),
    Flag("--max-loaded-loras"),
    Flag("--enable-metrics", Values.NONE, prefixes=False),
    Flag("--log-level", prefixes=False),
    Flag("--model-impl", prefixes=False),
    Flag("--json-model-override-args"),
    Flag("--trust-remote-code", Values.NONE),
)
OWNED = ("--model-path", "--host", "--port", "--served-model-name")
_OTHER_WAYS = ("--model-impl", "--json-model-override-args", "--trust-remote-code")
_STANDALONE_SINCE = (0, 5, 2)


class SglangBackend:
    """The SGLang family."""

    name = "sglang"
    flags = FLAGS
    lora_api: LoraApi | None = LoraApi("/load_lora_adapter", "/unload_lora_adapter")
    has_many_names = False

    def command(self, launch: Launch, environ: Mapping[str, str]) -> Command:
        """Our defaults first and the user's flags last, so that theirs win."""
        arguments = joined(_defaults(launch, environ), launch, FLAGS, OWNED)
        return Command(
            argv=(*launch.installation.argv, "--model-path", str(launch.directory), *tokens_of(arguments)),
            environ=engine_environ(launch, environ, {}),
            arguments=arguments,
        )

    def phase_of(self, line: str) -> Phase | None:
        """The phase that a line of SGLang's output announces."""
        return sglang_log.phase_of(line)

    def explain(self, lines: Sequence[str]) -> Cause | None:
        """The cause of a failed start, read from SGLang's output."""
        return sglang_log.explain(lines)

    def installations(self, search_path: str, engines: EngineEnvironments) -> list[Installation]:  # noqa: ARG002  # there is no recipe of it
        """The first of ``sglang``, ``python3`` and ``python`` on PATH whose environment has SGLang."""
        return [found] if (found := _on_path(search_path)) else []

    def read_flags(self, tokens: Sequence[str]) -> UserFlags:
        """What the user's flags ask for."""
        return UserFlags(
            wish=replace(
                read_wish(self.name, tokens),
                any_architecture=any(last_values(tokens, FLAGS, name) for name in _OTHER_WAYS),
            ),
            model=read_value(tokens, FLAGS, "--model-path", str),
            served_names=last_values(tokens, FLAGS, "--served-model-name") or (),
            host=read_value(tokens, FLAGS, "--host", str),
            port=read_value(tokens, FLAGS, "--port", int),
            api_key=read_value(tokens, FLAGS, "--api-key", Secret),
        )

    def support(self, installation: Installation, architecture: str) -> Support:  # noqa: ARG002  # its classes do not tell
        """Nothing is known but by trying."""
        return Support()

    def known_architectures(self, version: str) -> frozenset[str]:  # noqa: ARG002  # there is no table of releases
        """Nothing is known of a release that is not here."""
        return frozenset()

    def endpoint(self, installation: Installation, directory: Path) -> Endpoint:  # noqa: ARG002  # the same for all
        """A free loopback port."""
        return Endpoint(port=free_port())

    def speculation(self, draft: Draft, version: str) -> tuple[str, ...]:
        """Its algorithm is told by the draft model's class; one token is tried at each step, in a chain."""
        where = ("--speculative-draft-model-path", str(draft.directory)) if draft.directory else ()
        tokens = ("--speculative-algorithm", _algorithm(draft, version), *where)
        if draft.tokens is None:
            return tokens
        chain = ("--speculative-num-steps", str(draft.tokens), "--speculative-eagle-topk", "1")
        return (*tokens, *chain, "--speculative-num-draft-tokens", str(draft.tokens + 1))


def _algorithm(draft: Draft, version: str) -> str:
    if draft.directory is None:
        return "NEXTN"
    name = draft.architecture.lower()
    if "eagle3" in name:
        return "EAGLE3"
    if "eagle" in name:
        return "EAGLE"
    if (0,) <= version_key(version) < _STANDALONE_SINCE:
        raise UsageError(
            f"{draft.origin} asks for a draft model of its own, which sglang {version} cannot use",
            remedy="SGLang drafts with plain models since 0.5.2; before, with EAGLE models",
        )
    return "STANDALONE"


def _defaults(launch: Launch, environ: Mapping[str, str]) -> Iterator[Argument]:
    """Our arguments, each with its origin; a user's own spelling of one replaces it."""
    profile, version = launch.fit.profile, launch.installation.version
    by_profile = f"profile {profile.name}"

    def asked(what: str, value: object = "") -> tuple[str, ...]:
        return spell("sglang", version, what, value, origin=by_profile)

    yield Argument(("--served-model-name", launch.served_names[0]), "served model name")
    yield Argument(("--host", "127.0.0.1", "--port", str(launch.endpoint.port)), "gateway")
    yield Argument(("--enable-metrics",), "gateway: /v1/metrics")
    yield Argument(asked("tensor_parallel", profile.tp), by_profile)
    if profile.pp > 1:
        yield Argument(asked("pipeline_parallel", profile.pp), by_profile)
    if profile.lora:
        yield from (Argument(tokens, by_profile) for tokens in _lora(launch))
        yield from lora_arguments(launch)
    if profile.online:
        yield Argument(asked("quantization", profile.precision), by_profile)
    if launch.gpu_share is not None:
        yield Argument(asked("gpu_share", f"{static_share(launch):.4f}"), f"NIM_GPU_MEM_FRACTION={launch.gpu_share:g}")
    if is_debug(environ):
        yield Argument(("--log-level", "debug"), "NIM_LOG_LEVEL")


def _lora(launch: Launch) -> Iterator[tuple[str, ...]]:
    """Without adapters at the start it has to be told the rank and the modules of those that may come."""
    version = launch.installation.version
    wanted = [("lora", "")]
    if last_values(tokens_of(launch.user_arguments), FLAGS, "--lora-paths") is None:
        if launch.lora is None or launch.lora.rank is None:
            wanted += [("lora_rank", str(DEFAULT_RANK))]
        wanted += [("lora_modules", "all")]
    for what, value in wanted:
        if tokens := spell("sglang", version, what, value):
            yield tokens


def static_share(launch: Launch) -> float:
    """The share of weights and cache that makes everything together take no more than was granted of the GPU.

    SGLang takes it of what is free once CUDA's context is there, and keeps the rest for activations and graphs:
    (whole - context - kept back) / (whole - context), all of them terms of the estimate.
    """
    estimate = launch.fit.estimate
    free = estimate.budget_bytes - estimate.binding.bytes_of("non_torch")
    kept = estimate.binding.bytes_of("activation", "cuda_graphs", "reserve")
    return (free - kept) / free


def _on_path(search_path: str) -> Installation | None:
    for program in ("sglang", "python3", "python"):
        path = shutil.which(program, path=search_path)
        found = find_distribution(Path(path), "sglang", ("sglang",)) if path else None
        if path and found:
            argv = (path, "serve") if program == "sglang" else (path, "-m", "sglang.launch_server")
            return _installation(found, argv)
    return None


def _installation(found: Distribution, argv: tuple[str, ...]) -> Installation:
    from lading.backends.sglang_registry import architectures

    runs = architectures(found.source)
    return Installation("sglang", found.version, Device.CUDA, argv, {}, runs, "PATH", found.source)
