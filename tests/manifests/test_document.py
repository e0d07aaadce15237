"""YAML from anywhere: what is read, what is refused, and with which line."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lading.manifests import document
from lading.manifests.document import MOST_BYTES, ManifestError, parse_document
from tests.manifests.documents import plain


def read(text: str | bytes) -> object:
    return plain(parse_document(text if isinstance(text, bytes) else text.encode(), "m.yaml"))


def test_no_text_becomes_anything_else() -> None:
    text = "a: 1e10\nb: true\nc: 0x10\nd: 2026-01-01\ne: ~\nf: 'null'\ng: !name x\nh: !!python/object:os.system [ls]\n"
    assert read(text) == {
        "a": "1e10", "b": "true", "c": "0x10", "d": "2026-01-01", "e": None, "f": "null", "g": "x", "h": ["ls"],
    }  # fmt: skip


def test_json_is_read_too() -> None:
    assert read(json.dumps({"a": ["b", {"c": "d"}]})) == {"a": ["b", {"c": "d"}]}
    assert read(b"\xef\xbb\xbf" + b"a: b\n") == {"a": "b"}


def test_anchors_and_merge_keys_stand_for_what_they_name() -> None:
    text = "base: &b {x: 1, y: 2}\nother: &o {y: 3, z: 4}\none: {<<: *b, y: own}\nboth: {<<: [*b, *o]}\nsame: *b\n"
    found = read(text)
    assert isinstance(found, dict)
    assert found["one"] == {"x": "1", "y": "own"}
    assert found["both"] == {"x": "1", "y": "2", "z": "4"}, "the first that is merged wins"
    assert found["same"] == {"x": "1", "y": "2"}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {k0: x}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}], k{n}: x}}\n" for n in range(1, 12)
)
REFUSED = {
    "an alias bomb": (BOMB, "line 7: the document stands for more than 2000000 values"),
    "merge keys that grow": (MERGES, "stands for more than 2000000 values"),
    "an anchor in itself": ("a: &a\n  - 1\n  - *a\n", "line 3: the anchor 'a' holds itself"),
    "an unknown anchor": ("a: b\nc: *d\n", "line 2:"),
    "a key twice": ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' is given twice"),
    "a key that is no text": ("a: 1\n? [x]\n: 2\n", "line 2: a key should be a text"),
    "nested too deeply": ("a: " + "[" * 60 + "]" * 60, "line 1: nested more than 40 deep"),
    "no YAML": ("a: 1\nb: [1, 2\nc: 3\n", "line 3: not YAML"),
    "a tab": ("a:\n\t- b\n", "line 2: not YAML"),
    "several documents": ("a: 1\n---\nb: 2\n", "a manifest is one document"),
    "nothing": ("", "the file is empty"),
    "a control character": ("a: \x00\n", "not YAML"),
    "a merge of a text": ("a: {<<: b}\n", "line 1: what '<<' merges should be a mapping"),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_names_the_line(text: str, said: str) -> None:
    began = time.monotonic()
    with pytest.raises(ManifestError) as refused:
        read(text)
    assert said in refused.value.message
    assert refused.value.message.startswith("m.yaml")
    assert time.monotonic() - began < 20


def test_bytes_that_are_not_utf8_name_the_line() -> None:
    with pytest.raises(ManifestError, match="m.yaml, line 2: not UTF-8"):
        read(b"a: b\nc: \xff\n")


def test_a_huge_document_is_not_even_parsed() -> None:
    with pytest.raises(ManifestError, match="larger than a manifest may be"):
        read(b"#" * (MOST_BYTES + 1))


@pytest.mark.parametrize(
    ("text", "ask", "said"),
    [
        ("a:\n  b: [1]\n", "text", "line 2: x should be a text"),
        ("a:\n  b: c\n", "mapping", "line 2: x should be a mapping"),
        ("a:\n  b: {}\n", "items", "line 2: x should be a list"),
    ],
)
def test_a_node_of_another_kind_names_its_line(text: str, ask: str, said: str) -> None:
    node = parse_document(text.encode(), "m.yaml").mapping("top")["a"].mapping("a")["b"]
    with pytest.raises(ManifestError, match=said):
        getattr(node, ask)("x")


SCALARS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), max_size=12)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(SCALARS.filter(lambda key: key != "<<"), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_what_yaml_writes_is_read_back(value: object) -> None:
    assert read(yaml.safe_dump(value, default_style='"', allow_unicode=True)) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(ManifestError):
        parse_document(data, "m.yaml")


def test_the_python_parser_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert read("a: &x [1, b]\nc: *x\n") == {"a": ["1", "b"], "c": ["1", "b"]}
    assert document.MOST_DEPTH == 40
