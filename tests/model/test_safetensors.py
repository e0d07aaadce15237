"""Safetensors headers: read when true, refused when they lie."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.errors import MalformedModel
from lading.model.safetensors import DTYPE_BITS, Tensor, header_length, parse_header


def layout(tensors: dict[str, tuple[str, list[int]]]) -> tuple[bytes, int]:
    """A true header for ``tensors`` and the size of the file that it heads."""
    entries, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = Tensor(name, dtype, tuple(shape)).size_bytes
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(entries).encode()
    return header, 8 + len(header) + end


def test_tensors_are_read_in_the_order_of_their_data():
    header, size = layout({"b": ("BF16", [4, 8]), "a": ("F32", []), "empty": ("I8", [0, 3])})
    assert parse_header("m", header, size) == (
        Tensor("b", "BF16", (4, 8)),
        Tensor("a", "F32", ()),
        Tensor("empty", "I8", (0, 3)),
    )


def test_metadata_is_no_tensor():
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    assert parse_header("m", header, 8 + len(header)) == ()


def test_four_bit_elements_take_half_a_byte():
    assert Tensor("x", "F4", (3, 3)).size_bytes == 5


@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda n: n != "__metadata__"),
        st.tuples(st.sampled_from(sorted(DTYPE_BITS)), st.lists(st.integers(0, 9), max_size=3)),
        max_size=8,
    )
)
def test_every_true_header_is_read(tensors):
    header, size = layout(tensors)
    assert {each.name for each in parse_header("m", header, size)} == set(tensors)


def changed(**change):
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | change}


LIES = {
    "not json": (b"{", "JSON"),
    "not a table": (b"[]", "table"),
    "nested too deep": (b"[" * 100_000, "JSON"),
    "entry is no table": (json.dumps({"x": 1}).encode(), "table"),
    "unknown type": (json.dumps(changed(dtype="Q8")).encode(), "type"),
    "type is a list": (json.dumps(changed(dtype=["F32"])).encode(), "type"),
    "negative size": (json.dumps(changed(shape=[-2])).encode(), "shape"),
    "size of 2**63": (json.dumps(changed(shape=[1 << 63])).encode(), "shape"),
    "true is no size": (json.dumps(changed(shape=[True])).encode(), "shape"),
    "offsets do not fit the shape": (json.dumps(changed(data_offsets=[0, 4])).encode(), "fill"),
    "offsets swapped": (json.dumps(changed(data_offsets=[8, 0])).encode(), "fill"),
    "three offsets": (json.dumps(changed(data_offsets=[0, 8, 9])).encode(), "offsets"),
    "starts late": (json.dumps(changed(data_offsets=[4, 12])).encode(), "start"),
    "overlap": (json.dumps({**changed(), "y": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}).encode(), "overlaps"),
    "gap": (json.dumps({**changed(), "y": {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]}}).encode(), "gap"),
    "name twice": (b'{"x":{"dtype":"I8","shape":[0],"data_offsets":[0,0]},"x":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}}', "JSON"),
}  # fmt: skip


@pytest.mark.parametrize(("header", "word"), LIES.values(), ids=LIES.keys())
def test_a_lying_header_is_refused_and_names_the_file(header, word):
    with pytest.raises(MalformedModel, match=word) as refusal:
        parse_header("model.safetensors", header, 8 + len(header) + 8)
    assert "model.safetensors" in refusal.value.message


def test_a_truncated_shard_is_found_from_its_size():
    header, size = layout({"x": ("F32", [100])})
    with pytest.raises(MalformedModel, match="truncated"):
        parse_header("m", header, size - 1)


def test_trailing_bytes_are_refused():
    header, size = layout({"x": ("F32", [1])})
    with pytest.raises(MalformedModel, match="follow"):
        parse_header("m", header, size + 3)


@pytest.mark.parametrize(
    ("first", "size"), [(b"\x08", 1), ((1 << 63).to_bytes(8, "little"), 100), ((93).to_bytes(8, "little"), 100)]
)
def test_an_impossible_length_is_refused(first, size):
    with pytest.raises(MalformedModel):
        header_length("m", first, size)


def test_a_length_that_just_fits_is_read():
    assert header_length("m", (92).to_bytes(8, "little"), 100) == 92
