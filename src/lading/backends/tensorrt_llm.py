"""TensorRT-LLM: ``trtllm-serve`` on PATH, started on a loopback port.

Its PyTorch backend loads checkpoints; engines that were built before are run by the older one (releases up to 1.2).
Flags have underscores and no abbreviations; switches have no negative. Much of the engine has no flag and is asked for
in a YAML file of the user's own (``--extra_llm_api_options``), which wins over flags. Flags of the user pass through
untouched and win over ours. What Lading owns are the model, the endpoint and the name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lading.backends import tensorrt_llm_log
from lading.backends.arguments import Flag, Values, last_values
from lading.backends.distributions import find_distribution
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
from lading.backends.launching import engine_environ, is_debug, joined, read_value, tokens_of
from lading.backends.spelling import spell
from lading.errors import UsageError
from lading.events import Phase
from lading.hardware.inventory import Device
from lading.profiles.constants import version_key
from lading.profiles.rules import Support

FLAGS = (
    *flags_of("tensorrt_llm"),
    Flag("--served-model-name", prefixes=False),
    Flag("--host", prefixes=False),
    Flag("--port", prefixes=False),
    Flag("--backend", prefixes=False),
    Flag("--log-level", prefixes=False),
    Flag("--tokenizer", prefixes=False),
    Flag("--custom-tokenizer", prefixes=False),
    Flag("--trust-remote-code", Values.NONE, prefixes=False),
)
OWNED = ("--host", "--port", "--served-model-name")
_OTHER_WAYS = ("--trust-remote-code",)
_PYTORCH_SINCE = (1, 0)
_NAMES = ("--served_model_name", "--served-model-name")


class TensorrtLlmBackend:
    """The TensorRT-LLM family."""

    name = "tensorrt_llm"
    flags = FLAGS
    lora_api: LoraApi | None = None
    has_many_names = False

    def command(self, launch: Launch, environ: Mapping[str, str]) -> Command:
        """``trtllm-serve DIRECTORY`` with our defaults first and the user's flags last, so that theirs win.

        A built engine is served from its own folder, which has no tokenizer.
        """
        arguments = joined(_defaults(launch, environ), launch, FLAGS, OWNED)
        directory = launch.directory / (launch.fit.profile.engine_folder or "")
        return Command(
            argv=(*launch.installation.argv, str(directory), *tokens_of(arguments)),
            environ=engine_environ(launch, environ, {}),
            arguments=arguments,
        )

    def phase_of(self, line: str) -> Phase | None:
        """The phase that a line of TensorRT-LLM's output announces."""
        return tensorrt_llm_log.phase_of(line)

    def explain(self, lines: Sequence[str]) -> Cause | None:
        """The cause of a failed start, read from TensorRT-LLM's output."""
        return tensorrt_llm_log.explain(lines)

    def installations(self, search_path: str, engines: EngineEnvironments) -> list[Installation]:  # noqa: ARG002  # there is no recipe of it
        """``trtllm-serve`` on PATH."""
        return [found] if (found := _on_path(search_path)) else []

    def read_flags(self, tokens: Sequence[str]) -> UserFlags:
        """What the user's flags ask for."""
        return UserFlags(
            wish=replace(
                read_wish(self.name, tokens),
                any_architecture=any(last_values(tokens, FLAGS, name) for name in _OTHER_WAYS),
            ),
            served_names=last_values(tokens, FLAGS, "--served-model-name") or (),
            host=read_value(tokens, FLAGS, "--host", str),
            port=read_value(tokens, FLAGS, "--port", int),
        )

    def support(self, installation: Installation, architecture: str) -> Support:  # noqa: ARG002  # the same for all
        """No LoRA: it is asked for in a file of options, not by flags."""
        return Support(lora=False)

    def known_architectures(self, version: str) -> frozenset[str]:  # noqa: ARG002  # there is no table of releases
        """Nothing is known of a release that is not here."""
        return frozenset()

    def endpoint(self, installation: Installation, directory: Path) -> Endpoint:  # noqa: ARG002  # the same for all
        """A free loopback port."""
        return Endpoint(port=free_port())

    def speculation(self, draft: Draft, version: str) -> tuple[str, ...]:
        """It has no flag for it."""
        raise UsageError(
            f"{draft.origin} asks for what tensorrt_llm {version} has no flag for",
            remedy="put `speculative_config` into a YAML file and pass it with --extra_llm_api_options FILE",
        )


def _defaults(launch: Launch, environ: Mapping[str, str]) -> Iterator[Argument]:
    """Our arguments, each with its origin; a user's own spelling of one replaces it."""
    profile, installation = launch.fit.profile, launch.installation
    by_profile = f"profile {profile.name}"

    def asked(what: str, value: object = "") -> tuple[str, ...]:
        return spell("tensorrt_llm", installation.version, what, value, origin=by_profile)

    if spelling := next((each for each in _NAMES if each in installation.flags), None):
        yield Argument((spelling, launch.served_names[0]), "served model name")
    yield Argument(("--host", "127.0.0.1", "--port", str(launch.endpoint.port)), "gateway")
    yield from _loading(launch, asked)
    if launch.gpu_share is not None:
        yield Argument(asked("gpu_share", f"{cache_share(launch):.4f}"), f"NIM_GPU_MEM_FRACTION={launch.gpu_share:g}")
    if is_debug(environ):
        yield Argument(("--log_level", "debug"), "NIM_LOG_LEVEL")


def _loading(launch: Launch, asked: Callable[[str, object], tuple[str, ...]]) -> Iterator[Argument]:
    """What is loaded: a checkpoint by the PyTorch backend, or an engine, which is split as it was built.

    Up to 0.21 engines are what ``trtllm-serve`` takes by itself, since 1.0 checkpoints are.
    """
    profile, is_older = launch.fit.profile, () < version_key(launch.installation.version) < _PYTORCH_SINCE
    if profile.engine_folder is not None:
        if not is_older:
            yield Argument(("--backend", "tensorrt"), "the backend that runs built engines")
        yield Argument(("--tokenizer", str(launch.directory)), "a built engine has no tokenizer of its own")
        return
    if is_older:
        yield Argument(("--backend", "pytorch"), "the backend that loads checkpoints")
    yield Argument(asked("tensor_parallel", profile.tp), f"profile {profile.name}")
    if profile.pp > 1:
        yield Argument(asked("pipeline_parallel", profile.pp), f"profile {profile.name}")


def cache_share(launch: Launch) -> float:
    """The share of what is free after loading that makes everything together take no more than was granted.

    TensorRT-LLM makes it the cache and leaves the rest: cache / (cache + left free), as the estimate has them.
    """
    rank = launch.fit.estimate.binding
    pool = max(0, rank.kv_pool_bytes)
    return pool / max(1, pool + rank.bytes_of("reserve"))


def _on_path(search_path: str) -> Installation | None:
    from lading.backends.tensorrt_llm_registry import architectures, flags

    script = shutil.which("trtllm-serve", path=search_path)
    found = find_distribution(Path(script), "tensorrt_llm", ("tensorrt_llm",)) if script else None
    if script is None or found is None:
        return None
    return Installation(
        backend="tensorrt_llm",
        version=found.version,
        device=Device.CUDA,
        argv=(script,),
        environ={},
        architectures=architectures(found.source),
        origin="PATH",
        packages=found.source,
        flags=flags(found.source),
    )
