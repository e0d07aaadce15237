"""The split of ``serve``'s command line: ours, the model, the engine's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.backends.vllm import VllmBackend
from lading.cli.own_flags import OwnFlag
from lading.cli.serve_arguments import ServeArguments
from lading.errors import UsageError

HF = "hf://org/model"


def parse(*tokens: str) -> ServeArguments:
    return ServeArguments.parse(tokens, VllmBackend())


@pytest.mark.parametrize(
    ("tokens", "model", "engine"),
    [
        ([HF], HF, ()),
        (["demo"], "demo", ()),
        (["/mnt/m", "--seed", "1"], "/mnt/m", ("--seed", "1")),
        (["--dry-run", HF], HF, ()),
        ([HF, "--dry-run", "--seed", "1", "--refresh"], HF, ("--seed", "1")),
        (["--max-model-len", "8", HF], HF, ("--max-model-len", "8")),
        (["--enable-lora", HF], HF, ("--enable-lora",)),
        (["--seed=1", HF], HF, ("--seed=1",)),
        (["--chat-template", HF], None, ("--chat-template", HF)),
        (["--model", HF, "-tp", "2"], HF, ("--model", HF, "-tp", "2")),
        (["--chat-template", "/mnt/t"], None, ("--chat-template", "/mnt/t")),
        ([], None, ()),
        ([HF, "--", "--dry-run"], HF, ("--dry-run",)),
        (["-tp", "2", "--host", "::", HF], HF, ("-tp", "2", "--host", "::")),
    ],
)
def test_the_model_is_found_and_everything_else_passes_through(tokens, model, engine):
    arguments = parse(*tokens)
    assert arguments.model == model
    assert arguments.engine_tokens == engine


def test_own_flags_are_taken_out_wherever_they_stand():
    assert parse("--offline", HF, "--x", "--debug").flags == {OwnFlag.OFFLINE, OwnFlag.DEBUG}


def test_two_models_are_refused():
    with pytest.raises(UsageError, match="two models"):
        parse(HF, "--model", "hf://a/b")


@given(st.lists(st.sampled_from(["--a", "1", "-tp=2", "--port=1", "x y", "", "--enable-lora"]), max_size=8))
def test_engine_flags_behind_the_model_are_untouched(tokens):
    assert parse(HF, *tokens).engine_tokens == tuple(tokens)
