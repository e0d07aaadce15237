"""Engine flags in every spelling that argparse engines take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.backends.arguments import Flag, Values, last_values, scan, without
from lading.backends.vllm import FLAGS

TP = "--tensor-parallel-size"


@pytest.mark.parametrize(
    ("tokens", "values"),
    [
        (["--tensor-parallel-size", "2"], ("2",)),
        (["--tensor-parallel-size=2"], ("2",)),
        (["--tensor_parallel_size=2"], ("2",)),
        (["--tensor_parallel_size", "2"], ("2",)),
        (["-tp", "2"], ("2",)),
        (["-tp=2"], ("2",)),
        (["--tensor-parallel=2"], ("2",)),
        (["-tp", "2", "--foo", "-tp", "4"], ("4",)),
        (["--tensor-parallel-size"], ()),
        (["-tp2"], None),
        (["--foo", "tensor-parallel-size"], None),
        ([], None),
    ],
)
def test_a_flag_is_found_in_every_spelling_and_the_last_wins(tokens, values):
    assert last_values(tokens, FLAGS, TP) == values


@pytest.mark.parametrize(
    ("tokens", "values"),
    [
        (["--enable-lora"], ("true",)),
        (["--no-enable-lora"], ("false",)),
        (["--enable_lora", "--no-enable-lora"], ("false",)),
        (["--enable-lo"], None),
    ],
)
def test_booleans_are_on_off_or_absent(tokens, values):
    assert last_values(tokens, FLAGS, "--enable-lora") == values


def test_a_boolean_takes_no_value():
    assert without(["--enable-lora", "x"], FLAGS, ["--enable-lora"]) == ("x",)


@pytest.mark.parametrize(
    ("tokens", "names"),
    [
        (["--served-model-name", "a", "b", "--x"], ("a", "b")),
        (["--served-model-name=a", "b"], ("a", "b")),
        (["--served-model-name", "--x"], ()),
    ],
)
def test_a_list_flag_takes_all_that_follows(tokens, names):
    assert last_values(tokens, FLAGS, "--served-model-name") == names


def test_a_negative_number_is_a_value():
    assert last_values(["--max-model-len", "-1"], FLAGS, "--max-model-len") == ("-1",)


def test_removing_a_flag_leaves_the_rest_in_order():
    tokens = ["--a", "1", "--port", "9", "--b=2", "--port=8", "c"]
    assert without(tokens, FLAGS, ["--port"]) == ("--a", "1", "--b=2", "c")


TOKENS = st.lists(
    st.sampled_from(
        [
            "-tp",
            "--tensor-parallel-size",
            "--enable-lora",
            "--no-enable-lora",
            "--served-model-name",
            "2",
            "-1",
            "x",
            "--foo",
            "--port=1",
            "=",
            "--",
            "-",
            "",
        ]
    ),
    max_size=12,
)


@given(TOKENS)
def test_no_token_is_lost_or_moved(tokens):
    assert [token for group in scan(tokens, FLAGS) for token in group.tokens] == tokens


@given(TOKENS)
def test_removing_nothing_changes_nothing(tokens):
    assert list(without(tokens, FLAGS, [])) == tokens


def test_an_ambiguous_prefix_is_no_match():
    flags = (Flag("--max-len"), Flag("--max-seqs"))
    assert last_values(["--max-", "3"], flags, "--max-len") is None
    assert last_values(["--max-l", "3"], flags, "--max-len") == ("3",)
    assert Values.ONE is flags[0].values
