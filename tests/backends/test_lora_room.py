"""The room for LoRA adapters as each engine is told it, and what opens their API."""

from __future__ import annotations

import shlex

import pytest

from lading.backends.interface import Limit, LoraRoom
from lading.backends.members import BACKENDS
from tests.backends.launches import launch_of

ROOM = LoraRoom(Limit(64, "a"), Limit(4, "b"), Limit(16, "c"), is_open=True)


def written(profile: str, version: str, *user: str, room: LoraRoom = ROOM) -> tuple[str, dict[str, str]]:
    launch = launch_of(profile, version, *user, lora=room)
    command = BACKENDS[launch.installation.backend].command(launch, {})
    return shlex.join(command.argv), dict(command.environ)


def test_vllm_is_told_all_and_its_api_is_opened():
    argv, environ = written("vllm-bf16-tp1-pp1-feat_lora", "0.33.0")
    assert argv.endswith("--enable-lora --max-lora-rank 64 --max-loras 4 --max-cpu-loras 16")
    assert environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"


def test_the_users_flags_win():
    argv, _ = written("vllm-bf16-tp1-pp1-feat_lora", "0.33.0", "--max-lora-rank=8", "--max-cpu-loras", "9")
    assert argv.endswith("--enable-lora --max-loras 4 --max-lora-rank=8 --max-cpu-loras 9")


def test_without_adapters_the_api_stays_closed():
    argv, environ = written("vllm-bf16-tp1-pp1-feat_lora", "0.33.0", room=LoraRoom())
    assert argv.endswith("--enable-lora")
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in environ


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.5.23", "--enable-lora --lora-target-modules all --max-lora-rank 64 --max-loras-per-batch 4 --max-loaded-loras 16"),
        ("0.4.10", "--enable-lora --lora-target-modules all --max-lora-rank 64 --max-loras-per-batch 4"),
    ],
)  # fmt: skip
def test_sglang_is_told_in_its_words(version, expected):
    assert written("sglang-bf16-tp1-pp1-feat_lora", version)[0].endswith(expected)
