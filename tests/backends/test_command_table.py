"""The recorded table of commands: profile × version × what the user wrote → argv and what the environment gains."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lading.backends.members import BACKENDS
from tests.backends.launches import launch_of

TABLE = Path(__file__).with_name("commands.yaml")


@dataclass(frozen=True)
class Case:
    profile: str
    version: str
    user: str
    argv: str
    environ: dict[str, str]
    gpu_share: float | None
    flags: tuple[str, ...]
    given: dict[str, str]

    @classmethod
    def of(cls, row: dict[str, Any]) -> Case:
        return cls(
            profile=row["profile"],
            version=str(row["version"]),
            user=row.get("user", ""),
            argv=" ".join(row["argv"].split()),
            environ=row.get("environ", {}),
            gpu_share=row.get("gpu_share"),
            flags=tuple(row.get("flags", ())),
            given=row.get("given", {}),
        )


CASES = [Case.of(row) for row in yaml.safe_load(TABLE.read_text())]
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.profile} {case.version} {case.user}"[:60])
def test_the_command_is_the_recorded_one(case):
    launch = launch_of(case.profile, case.version, *shlex.split(case.user), gpu_share=case.gpu_share, flags=case.flags)
    command = BACKENDS[launch.installation.backend].command(launch, case.given)
    assert shlex.join(command.argv) == case.argv
    assert command.environ == {**OFFLINE, **case.environ}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.profile} {case.version} {case.user}"[:60])
def test_every_argument_has_its_origin_and_comes_behind_program_and_model(case):
    launch = launch_of(case.profile, case.version, *shlex.split(case.user), flags=case.flags)
    command = BACKENDS[launch.installation.backend].command(launch, {})
    tokens = tuple(token for argument in command.arguments for token in argument.tokens)
    assert (*command.head, *tokens) == command.argv
    assert command.head[-1] == "/ws"
    assert all(argument.origin for argument in command.arguments)


@pytest.mark.parametrize("profile", ["vllm-bf16-tp1-pp1", "sglang-bf16-tp1-pp1", "tensorrt_llm-bf16-tp1-pp1"])
def test_no_engine_listens_beyond_this_machine(profile):
    launch = launch_of(profile, "9.9", "--host", "0.0.0.0", "--port=80")
    argv = BACKENDS[launch.installation.backend].command(launch, {}).argv
    assert "0.0.0.0" not in argv
    assert "--port=80" not in argv


def test_the_table_has_every_engine_with_and_without_the_users_flags():
    families = {case.profile.partition("-")[0] for case in CASES}
    assert families == set(BACKENDS)
    assert {case.profile.partition("-")[0] for case in CASES if case.user} == families
