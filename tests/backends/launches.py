"""Launches of the three engines on described machines, for tests of their commands."""

from __future__ import annotations

from pathlib import Path

from lading.backends.interface import Argument, Endpoint, Installation, Launch, LoraRoom
from lading.hardware.inventory import Device, Gpu, Inventory
from lading.profiles.fit import Engine, Wish, fit
from lading.profiles.options import EngineOptions
from lading.profiles.profile import Profile
from lading.units import GIB
from tests.profiles.situations import TINY

ARGV = {
    "vllm": ("/env/bin/vllm",),
    "sglang": ("/env/bin/sglang", "serve"),
    "tensorrt_llm": ("/env/bin/trtllm-serve",),
}


def launch_of(
    profile: str,
    version: str,
    *user: str,
    gpu_share: float | None = None,
    flags: tuple[str, ...] = (),
    names: tuple[str, ...] = ("tiny",),
    lora: LoraRoom | None = None,
) -> Launch:
    """A launch of ``profile``, written as profiles are named, by its engine of ``version``, on as many GPUs as it needs.

    The endpoint is port 8001; a socket for vLLM.
    """
    family, precision, tp, pp, *rest = profile.split("-")
    asked = Profile(family, precision, int(tp[2:]), int(pp[2:]), bool(rest), "m", online=precision == "fp8")
    gpus = tuple(Gpu(index, "H100", 80 * GIB, 80 * GIB, (9, 0)) for index in range(asked.ranks))
    inventory = Inventory(gpus, 64 * GIB, 64 * GIB, 8)
    wish = Wish(tp=asked.tp, pp=asked.pp, options=EngineOptions(gpu_share=gpu_share))
    return Launch(
        installation=Installation(
            family, version, Device.CUDA, ARGV[family], {}, frozenset(), "PATH", flags=frozenset(flags)
        ),
        fit=fit(asked, TINY, inventory, [Engine(family, version, Device.CUDA)], wish),
        inventory=inventory,
        directory=Path("/ws"),
        served_names=names,
        user_arguments=(Argument(user, "command line"),) if user else (),
        endpoint=Endpoint(socket_path=Path("/run/engine.sock")) if family == "vllm" else Endpoint(port=8001),
        gpu_share=gpu_share,
        lora=lora,
    )
