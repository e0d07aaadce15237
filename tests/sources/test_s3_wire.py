"""S3's protocol as values: addresses, listing pages, refusals, etags."""

from base64 import b64encode
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.digest import Digest
from lading.sources.s3_wire import (
    Address,
    Addressing,
    Page,
    Refusal,
    StoredObject,
    archive_of,
    aws_endpoint,
    etag_is_md5,
    is_path_style,
    is_region,
    parse_page,
    parse_refusal,
    possible_md5,
    quoted_etag,
    told_digests,
    version_id,
)

AWS = "https://s3.eu-west-1.amazonaws.com"
MD5 = "5d41402abc4b2a76b9719d911017c592"


@pytest.mark.parametrize(
    ("endpoint", "bucket", "addressing", "expected"),
    [
        (AWS, "models", Addressing.AUTO, False),
        (AWS, "models", Addressing.PATH, True),
        (AWS, "my.models", Addressing.AUTO, True),
        (AWS, "my.models", Addressing.VIRTUAL, False),
        (AWS, "My_Models", Addressing.AUTO, True),
        ("http://storage.corp.test", "my.models", Addressing.AUTO, False),
        ("https://storage.corp.test:9000", "models", Addressing.AUTO, False),
        ("https://ns.compat.objectstorage.us-phoenix-1.oraclecloud.com", "models", Addressing.AUTO, True),
        ("https://ns.compat.objectstorage.us-phoenix-1.oraclecloud.com", "models", Addressing.VIRTUAL, False),
        ("https://oraclecloud.com.corp.test", "models", Addressing.AUTO, False),
        ("http://127.0.0.1:9000", "models", Addressing.AUTO, True),
        ("http://[::1]:9000", "models", Addressing.AUTO, True),
        ("http://localhost:9000", "models", Addressing.AUTO, True),
        ("http://minio:9000", "models", Addressing.AUTO, True),
        ("http://10.1.2.3", "models", Addressing.AUTO, True),
    ],
)
def test_where_the_bucket_goes(endpoint: str, bucket: str, addressing: Addressing, expected: bool) -> None:
    assert is_path_style(endpoint, bucket, addressing) is expected


@pytest.mark.parametrize(
    ("is_in_path", "key", "url"),
    [
        (False, "a/b", "https://b.s3.corp.test:9000/a/b"),
        (True, "a/b", "https://s3.corp.test:9000/b/a/b"),
        (False, "", "https://b.s3.corp.test:9000/"),
        (True, "", "https://s3.corp.test:9000/b"),
        (True, "x y+%#&=ü~", "https://s3.corp.test:9000/b/x%20y%2B%25%23%26%3D%C3%BC~"),
    ],
)
def test_a_url_names_one_object(is_in_path: bool, key: str, url: str) -> None:
    assert Address("https://s3.corp.test:9000", "b", "r", is_in_path).url(key) == url


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\t"), min_size=1))
def test_a_key_comes_back_from_its_url(key: str) -> None:
    assert unquote(urlsplit(Address("http://h", "b", "r", True).url(key)).path) == f"/b/{key}"


def test_a_query_is_sorted_and_encoded_as_signatures_want_it() -> None:
    url = Address("http://h", "b", "r", True).url("", {"prefix": "a b/+", "delimiter": "/"})
    assert url == "http://h/b?delimiter=%2F&prefix=a%20b%2F%2B"


def test_china_has_a_domain_of_its_own() -> None:
    assert aws_endpoint("eu-west-1") == AWS
    assert aws_endpoint("cn-north-1") == "https://s3.cn-north-1.amazonaws.com.cn"


@pytest.mark.parametrize("text", ["", "a/b", "a.evil.test#", "-a", "a b", "a" * 65])
def test_a_region_that_would_change_the_host_is_none(text: str) -> None:
    assert not is_region(text)
    assert parse_refusal(301, {"x-amz-bucket-region": text}, b"").region is None


def listing(inner: str, root: str = "ListBucketResult") -> bytes:
    return f'<?xml version="1.0"?><{root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inner}</{root}>'.encode()


def test_a_page_is_decoded_only_where_the_server_says_it_is_encoded() -> None:
    inner = "<Contents><Key>a+b%2Bc</Key><Size>5</Size><ETag>x</ETag></Contents>"
    plain, encoded = parse_page(listing(inner)), parse_page(listing(f"<EncodingType>url</EncodingType>{inner}"))
    assert plain == Page((StoredObject("a+b%2Bc", 5, '"x"'),), (), None)
    assert encoded == Page((StoredObject("a b+c", 5, '"x"'),), (), None)


def test_a_token_counts_only_on_a_page_that_is_not_the_last() -> None:
    token = "<NextContinuationToken>t</NextContinuationToken>"
    assert parse_page(listing(f"<IsTruncated>false</IsTruncated>{token}")).token is None
    assert parse_page(listing(f"<IsTruncated>true</IsTruncated>{token}")).token == "t"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>sign in",
        b"\xff\xfe\x00",
        listing("", "ListAllMyBucketsResult"),
        listing("<IsTruncated>true</IsTruncated>"),
        listing("<Contents><Key>a</Key></Contents>"),
        listing("<Contents><Key>a</Key><Size>-1</Size></Contents>"),
        listing(f"<Contents><Key>a</Key><Size>{'9' * 30}</Size></Contents>"),
        listing("<Contents><Size>1</Size></Contents>"),
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]>' + listing("<Name>&a;</Name>"),
    ],
)
def test_what_is_no_listing_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        parse_page(body)


@given(st.binary(max_size=300))
def test_any_body_of_a_refusal_can_be_read(body: bytes) -> None:
    assert parse_refusal(403, {}, body).status == 403


def test_a_refusal_keeps_what_decides_and_nothing_that_it_quotes() -> None:
    body = listing("<Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIA</AWSAccessKeyId>", "Error")
    assert parse_refusal(403, {}, body) == Refusal(403, "SignatureDoesNotMatch", None)
    assert parse_refusal(400, {}, listing("<Code>a b</Code><Region>eu-west-1</Region>", "Error")).region == "eu-west-1"
    assert parse_refusal(400, {}, listing("<Code>a b</Code>", "Error")).code == ""


@pytest.mark.parametrize(
    ("text", "etag", "md5"),
    [
        (MD5, f'"{MD5}"', Digest("md5", MD5)),
        (f'"{MD5}"', f'"{MD5}"', Digest("md5", MD5)),
        (f'W/"{MD5}"', f'"{MD5}"', Digest("md5", MD5)),
        (f'"{MD5}-2"', f'"{MD5}-2"', None),
        ("", None, None),
        (None, None, None),
        ("a\nb", None, None),
    ],
)
def test_an_etag_has_quotes_and_may_be_an_md5(text: str | None, etag: str | None, md5: Digest | None) -> None:
    assert quoted_etag(text) == etag
    assert possible_md5(etag) == md5


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, True),
        ({"x-amz-server-side-encryption": "AES256"}, True),
        ({"x-amz-server-side-encryption": "aws:kms"}, False),
        ({"x-amz-server-side-encryption": "aws:kms:dsse"}, False),
        ({"x-amz-server-side-encryption-customer-algorithm": "AES256"}, False),
    ],
)
def test_encryption_under_a_key_makes_the_etag_no_md5(headers: dict[str, str], expected: bool) -> None:
    assert etag_is_md5(headers) is expected


SHA256, MD5_ETAG = Digest.of(b"x"), {"ETag": f'"{MD5}"'}
BASE64 = b64encode(bytes.fromhex(SHA256.hex)).decode()
CRC32C = Digest("crc32c", "e3069283")
KMS = {"x-amz-server-side-encryption": "aws:kms"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, ()),
        (MD5_ETAG, (Digest("md5", MD5),)),
        (MD5_ETAG | KMS, ()),
        ({"x-amz-checksum-sha256": BASE64} | MD5_ETAG, (SHA256, Digest("md5", MD5))),
        ({"x-amz-checksum-sha256": BASE64, "x-amz-checksum-type": "FULL_OBJECT"} | KMS, (SHA256,)),
        ({"x-amz-checksum-sha256": BASE64, "x-amz-checksum-type": "FULL_OBJECT", "ETag": f"{MD5}-2"}, (SHA256,)),
        ({"x-amz-checksum-sha256": BASE64, "x-amz-checksum-type": "COMPOSITE"}, ()),
        ({"x-amz-checksum-sha256": f"{BASE64}-2"}, ()),
        ({"x-amz-checksum-sha256": f"{BASE64}-2", "x-amz-checksum-type": "FULL_OBJECT"}, ()),
        ({"x-amz-checksum-sha256": BASE64, "ETag": f'"{MD5}-2"'}, ()),
        ({"x-amz-checksum-sha256": "AAAA"}, ()),
        ({"x-amz-checksum-sha256": "ü"}, ()),
        ({"x-amz-meta-sha256": SHA256.hex.upper()}, (SHA256,)),
        ({"x-amz-meta-sha256": "abc"}, ()),
        ({"x-amz-checksum-crc32c": "4waSgw=="}, (CRC32C,)),
        ({"x-amz-checksum-crc32c": "4waSgw=="} | MD5_ETAG, (Digest("md5", MD5), CRC32C)),
        ({"x-amz-checksum-crc32": "4waSgw==", "x-amz-checksum-crc64nvme": "AAAAAAAAAAA="}, ()),
    ],
)
def test_digests_are_told_best_first_and_only_of_the_whole_object(
    headers: dict[str, str], expected: tuple[Digest, ...]
) -> None:
    assert told_digests(headers) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3/L4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY", True),
        ("", False),
        ("null", False),
        ("a b", False),
        ("ü", False),
        ("v" * 1025, False),
    ],
)
def test_a_version_is_what_a_header_can_name(text: str, expected: bool) -> None:
    assert version_id({"x-amz-version-id": text}) == (text if expected else None)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"x-amz-storage-class": "STANDARD_IA"}, None),
        ({"x-amz-storage-class": "GLACIER_IR"}, None),
        ({"x-amz-storage-class": "DEEP_ARCHIVE"}, "DEEP_ARCHIVE"),
        ({"x-amz-storage-class": "GLACIER", "x-amz-restore": 'ongoing-request="true"'}, "GLACIER"),
        ({"x-amz-storage-class": "GLACIER", "x-amz-restore": 'ongoing-request="false", expiry-date="x"'}, None),
        ({"x-amz-storage-class": "INTELLIGENT_TIERING"}, None),
        (
            {"x-amz-storage-class": "INTELLIGENT_TIERING", "x-amz-archive-status": "ARCHIVE_ACCESS"},
            "ARCHIVE_ACCESS",
        ),
    ],
)
def test_an_archive_is_one_that_must_be_waited_for(headers: dict[str, str], expected: str | None) -> None:
    assert archive_of(headers) == expected
