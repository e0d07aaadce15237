"""What is said about uploads in parts: sizes, bodies, answers, and answers that are none."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.digest import Digest
from lading.sources.upload import Part
from lading.sources.upload_wire import (
    LARGEST_PART_BYTES,
    LEAST_PART_BYTES,
    MOST_PARTS,
    completion,
    parse_begun,
    parse_completed,
    parse_parts,
    parse_uploads,
    part_bytes,
)

FIVE_TIB = 5 << 40


@given(st.integers(0, FIVE_TIB))
def test_every_object_that_a_bucket_takes_has_parts_that_it_takes(size: int) -> None:
    each = part_bytes(size)
    assert LEAST_PART_BYTES <= each <= LARGEST_PART_BYTES
    assert -(-size // each) <= MOST_PARTS


def test_parts_grow_only_where_they_would_be_too_many() -> None:
    assert part_bytes(0) == part_bytes(10_000 * (16 << 20)) == 16 << 20
    assert part_bytes(10_000 * (16 << 20) + 1) == 17 << 20


def test_a_completion_lists_etags_and_the_checksums_where_they_are_wanted() -> None:
    parts = [Part(1, 5, '"a&b"', (Digest.of(b"x"), Digest.of(b"x", "md5"))), Part(2, 5, '"c"')]
    plain = '<Part><PartNumber>1</PartNumber><ETag>"a&amp;b"</ETag></Part>'
    assert plain in completion(parts, with_sha256=False).decode()
    told = completion(parts, with_sha256=True).decode()
    assert f"<ChecksumSHA256>{b64encode(sha256(b'x').digest()).decode()}</ChecksumSHA256>" in told
    assert told.count("Checksum") == 2


def test_an_upload_that_failed_in_the_end_says_so_with_status_200() -> None:
    assert parse_completed(b"  <Error><Code>InternalError</Code></Error>") == "InternalError"
    assert parse_completed(b"<Error/>") == "Error"
    assert parse_completed(b"<CompleteMultipartUploadResult/>") is None


@pytest.mark.parametrize("parse", [parse_begun, parse_completed, parse_parts, parse_uploads])
@pytest.mark.parametrize("body", [b"", b"<html/>", b"{}", b"<!DOCTYPE x><x/>"])
def test_other_answers_are_told_apart(parse: Callable[[bytes], object], body: bytes) -> None:
    with pytest.raises(ValueError, match="some"):
        parse(body)


@pytest.mark.parametrize(
    "part",
    [
        "<PartNumber>x</PartNumber><Size>1</Size><ETag>e</ETag>",
        "<PartNumber>1</PartNumber><Size>-1</Size><ETag>e</ETag>",
        "<PartNumber>1</PartNumber><Size>1</Size>",
        "<PartNumber>999999</PartNumber><Size>1</Size><ETag>e</ETag>",
    ],
)
def test_a_part_that_is_none_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match="a part"):
        parse_parts(f"<ListPartsResult><Part>{part}</Part></ListPartsResult>".encode())


def test_an_upload_needs_an_id() -> None:
    with pytest.raises(ValueError, match="without an id"):
        parse_begun(b"<InitiateMultipartUploadResult/>")
