"""The YAML of an engine's build: what is read, what becomes a flag, what is refused and with which line."""

from __future__ import annotations

import pytest

from lading.errors import UsageError
from lading.hosting.build_config import (
    OPTIONS,
    Choice,
    Count,
    Program,
    Switch,
    Toggle,
    check_split,
    length_note,
    read_build_config,
)
from lading.hosting.convert_checkpoint import _parser as converter
from tests.profiles.situations import TINY
from tests.simulators.trtllm_build_program import parser as builder


def read(text: str):
    return read_build_config(text.encode(), "b.yaml")


def test_the_seeds_example_becomes_flags_of_both_programs():
    config = read("dtype: float16\ntp_size: 1\nmax_seq_len: 8192\n")
    assert config.tokens(Program.CONVERT) == ("--dtype", "float16", "--tp_size", "1")
    assert config.tokens(Program.BUILD) == ("--max_seq_len", "8192")
    assert (config.tp, config.pp) == (1, 1)


def test_switches_and_toggles_are_written_as_the_builder_wants_them():
    config = read("fast_build: true\nweight_sparsity: false\ncontext_fmha: disable\nreduce_fusion: yes\n")
    assert config.tokens(Program.BUILD) == ("--fast_build", "--context_fmha", "disable", "--reduce_fusion", "enable")


def example_of(kind: object) -> str:
    match kind:
        case Count(least):
            return str(least + 3)
        case Choice(words):
            return words[0]
        case Toggle():
            return "enable"
        case Switch():
            return "true"
    raise AssertionError(kind)


def test_every_option_is_a_flag_of_its_program():
    config = read("\n".join(f"{name}: {example_of(kind)}" for name, (_, kind) in OPTIONS.items()
                            if name not in ("opt_num_tokens", "max_input_len")))  # fmt: skip
    needed = ["--output_dir", "o"]
    builder().parse_args([*needed, "--checkpoint_dir", "c", *config.tokens(Program.BUILD)])
    converter().parse_args([*needed, "--model_dir", "m", *config.tokens(Program.CONVERT)])


REFUSED = {
    "tp: 2": ("line 1: 'tp' is no option", "tp_size"),
    "dtype: float16\nmax_seqlen: 5": ("line 2: 'max_seqlen' is no option", "did you mean max_seq_len?"),
    "xyzzy: 1": ("'xyzzy' is no option", "known are: dtype, tp_size"),
    "dtype: bf16": ("line 1: dtype is 'bf16'", "one of auto, float16, bfloat16, float32"),
    "tp_size: two": ("tp_size is 'two'", "a whole number, 1 or more"),
    "tp_size: 0": ("tp_size is '0'", "1 or more"),
    "tp_size: [1]": ("tp_size is something nested", "whole number"),
    "tp_size:": ("tp_size is ''", "whole number"),
    "fast_build: 3": ("fast_build is '3'", "true or false"),
    "context_fmha: maybe": ("context_fmha is 'maybe'", "enable or disable"),
    "max_seq_len: 10\nmax_input_len: 20": ("line 2: max_input_len 20 is more than max_seq_len 10", "lower max_input_len"),
    "opt_num_tokens: 9\nmax_num_tokens: 8": ("line 1: opt_num_tokens 9 is more", "raise max_num_tokens"),
    "weight_only_precision: int8": ("needs use_weight_only", None),
    "- a": ("a build config should be a mapping", None),
    "a: [": ("not YAML", None),
    "": ("is empty", None),
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_what_no_build_can_be_asked_for_is_refused_with_its_line(text):
    said, remedy = REFUSED[text]
    with pytest.raises(UsageError) as caught:
        read(text)
    assert said in caught.value.message
    assert "b.yaml" in caught.value.message
    assert remedy is None or remedy in str(caught.value.remedy)


def test_a_split_that_the_model_does_not_take_names_those_that_it_does():
    assert TINY.attention_heads
    with pytest.raises(UsageError, match="heads do not split over 3 ranks") as caught:
        check_split(read(f"max_seq_len: 5\ntp_size: 3\npp_size: {TINY.layers}"), TINY)
    assert "line 2" in caught.value.message
    assert "tp_size of 1, 2" in str(caught.value.remedy)
    with pytest.raises(UsageError, match="make no 9999 pipeline stages"):
        check_split(read("pp_size: 9999"), TINY)


def test_a_length_beyond_the_models_own_is_said_and_taken():
    assert length_note(read(f"max_seq_len: {TINY.max_model_len}"), TINY) is None
    assert "quality may suffer" in str(length_note(read("max_seq_len: 9999999"), TINY))
