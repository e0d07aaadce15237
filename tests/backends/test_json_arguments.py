"""Objects of one flag from several sources become one; what cannot be merged stays as it was written."""

from __future__ import annotations

import json
import shlex

import pytest

from lading.backends.arguments import Flag, Values
from lading.backends.interface import Argument
from lading.backends.json_arguments import merge_objects
from lading.backends.vllm import FLAGS


def merged(*sources: str) -> list[str]:
    arguments = [Argument(tuple(shlex.split(text)), str(number)) for number, text in enumerate(sources)]
    found = merge_objects(arguments, FLAGS)
    return [f"{shlex.join(each.tokens)} #{each.origin}" for each in found]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["""--hf-overrides '{"a": 1, "b": {"c": 1}}'""", """--hf-overrides='{"b": {"d": 2}}'"""], """--hf-overrides '{"a": 1, "b": {"c": 1, "d": 2}}' #1, 0"""),
        (["""--hf-overrides '{"a": 1}'""", """--hf_overrides '{"a": 2}'"""], """--hf-overrides '{"a": 2}' #1, 0"""),
        (["""--hf-overrides '{"a": 1}'""", "--hf-overrides.a.b=x"], """--hf-overrides '{"a": {"b": "x"}}' #1, 0"""),
        (["--kv-transfer-config.x=1 --kv-transfer-config.y.z true"], """--kv-transfer-config '{"x": 1, "y": {"z": true}}' #0"""),
        (["""--kv-transfer-config '{"a": 1}' --kv-transfer-config '{"b": 2}'"""], """--kv-transfer-config '{"b": 2}' #0"""),
        (["""-sc '{"model": "/d"}'""", """--speculative-config '{"num_speculative_tokens": 5}'"""], """--speculative-config '{"model": "/d", "num_speculative_tokens": 5}' #1, 0"""),
        (["""--x '{"a": [1, 2]}'""", """--x '{"a": [3]}'""", "--x.b 1"], """--x '{"a": [3], "b": 1}' #2, 1, 0"""),
    ],
)  # fmt: skip
def test_objects_merge_key_by_key_and_the_more_important_wins(sources, expected):
    assert merged(*sources) == [expected]


@pytest.mark.parametrize(
    "source",
    [
        """--hf-overrides '{"a": 1}' --seed 1""",
        """--x '{"a": 1}' --x 3""",
        """--compilation-config 3 -cc '{"a": 1}'""",
        "--x.y+ 1 --x.y+ 2",
        "--x.",
        "--x.y=",
        "--seed 1 --seed 2",
        """--enable-lora '{"a": 1}' --enable-lora '{"b": 1}'""",
        """a '{"b": 1}' -c""",
        "--temperature -1.5 --seed 1",
        "--x.y --z",
    ],
)
def test_everything_else_stays_as_it_was_written(source):
    assert merged(source) == [f"{source} #0"]


def test_other_flags_keep_their_order_and_their_sources():
    found = merged("""--seed 1 --x '{"a": 1}' --foo bar""", """--seed 2 --x '{"b": 2}'""", "")
    assert found == ["--seed 1 --foo bar #0", "--seed 2 #1", """--x '{"a": 1, "b": 2}' #1, 0"""]


def test_a_switch_claims_no_object():
    argument = Argument(("--on", '{"a": 1}', "--on", '{"b": 1}'), "o")
    assert merge_objects([argument], [Flag("--on", Values.NONE)]) == (argument,)


def test_what_is_merged_is_still_json_for_the_engine():
    (found,) = merge_objects([Argument(("--x.name", 'say "hi"', "--x.path=/a b"), "o")], FLAGS)
    assert json.loads(found.tokens[1]) == {"name": 'say "hi"', "path": "/a b"}
