"""What a mirror decides: pure, from what a bucket tells."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest

from lading.digest import Digest
from lading.errors import LadingError, UsageError
from lading.mirror import MirroredFile, Step, mirror, mirrored_files, plan_mirror, require_ngc, survey_mirror
from lading.model.manifest import FileEntry, Manifest
from lading.sources.upload import Held, bucket_location
from lading.uploading import difference
from lading.uri import ModelUri, Scheme
from tests.sources.destinations import s3_stand

MODEL = ModelUri.parse("ngc://nim/meta/tiny:hf")
PLACE = ModelUri.parse("s3://bucket/x")
DATA = b"the bytes"
SHA256, MD5 = Digest.of(DATA), Digest.of(DATA, "md5")
OTHER = Digest.of(b"others")
NAME = "nim%2Fmeta%2Ftiny%3Ahf%3Ffile%3Dconfig.json"


def a_file(*digests: Digest, path: str = "config.json", size: int = len(DATA)) -> MirroredFile:
    return MirroredFile(FileEntry(path, size, MODEL.with_file(path)), None, digests)


@pytest.mark.parametrize(
    ("file", "held", "step", "reason"),
    [
        (a_file(SHA256), None, Step.UPLOAD, "it is not there"),
        (a_file(SHA256), Held(9, (SHA256,)), Step.SKIP, "it is there with the same sha256"),
        (a_file(SHA256, MD5), Held(9, (MD5,)), Step.SKIP, "it is there with the same md5"),
        (a_file(SHA256), Held(9, (OTHER,)), Step.UPLOAD, "other bytes are there"),
        (a_file(SHA256), Held(8, (SHA256,)), Step.UPLOAD, "8 other bytes are there"),
        (a_file(SHA256), Held(9), Step.UPLOAD, "what is there cannot be compared"),
        (a_file(SHA256), Held(9, (MD5,)), Step.UPLOAD, "what is there cannot be compared"),
        (a_file(), Held(9, (SHA256,)), Step.UPLOAD, "what is there cannot be compared"),
        (a_file(SHA256, size=0), Held(0), Step.SKIP, "it is there with no byte"),
    ],
)
def test_what_is_there_with_the_same_digest_is_not_sent(
    file: MirroredFile, held: Held | None, step: Step, reason: str
) -> None:
    (planned,) = plan_mirror(PLACE, [file], {NAME: held} if held else {}, {}).files
    assert (planned.step, planned.reason) == (step, reason)


def test_what_an_earlier_run_sent_is_continued_and_counted() -> None:
    files = [a_file(SHA256), a_file(SHA256, path="b"), a_file(OTHER, path="c", size=100)]
    names = [each.name for each in files]
    plan = plan_mirror(PLACE, files, {names[1]: Held(9, (SHA256,))}, {names[2]: 40, names[0]: 0})
    assert [each.step for each in plan.files] == [Step.UPLOAD, Step.SKIP, Step.CONTINUE]
    assert (plan.total_bytes, plan.present_bytes, plan.upload_bytes, plan.sent_bytes) == (118, 9, 109, 40)
    assert plan.files[2].reason == "it is not there; an earlier run sent some of it"


def test_a_name_that_no_bucket_takes_is_a_usage_error() -> None:
    long = ModelUri.parse(f"s3://bucket/{'p' * 1000}")
    with pytest.raises(UsageError, match="1024 with the prefix"):
        plan_mirror(long, [a_file(SHA256)], {}, {})


def test_files_of_other_models_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    model = ModelUri.parse("hf://meta/tiny")
    manifest = Manifest.of(model, "main", [FileEntry("a", 1, model.with_file("a"), SHA256)])
    destination, client = s3_stand("http://127.0.0.1:1", "bucket").connect()
    with pytest.raises(UsageError, match="hf://meta/tiny is not on NGC"):
        survey_mirror(mirrored_files(manifest), destination)
    assert client.sent == []
    require_ngc(MODEL)


def test_a_plan_for_files_that_are_not_here_cannot_be_carried_out() -> None:
    destination, _ = s3_stand("http://127.0.0.1:1", "bucket").connect()
    with pytest.raises(LadingError, match="is not here"):
        mirror(plan_mirror(PLACE, [a_file(SHA256)], {}, {}), destination, cancelled=Event())


@pytest.mark.parametrize(
    ("held", "wrong"),
    [
        (Held(9, (SHA256, MD5)), None),
        (Held(9, (MD5,)), None),
        (None, "it is not there"),
        (Held(8, (SHA256,)), "8 bytes in place of 9"),
        (Held(9, (SHA256, OTHER)), f"{OTHER} in place of {SHA256}"),
        (Held(9, (Digest("crc32c", "00000000"),)), "no digest that could be compared"),
        (Held(9), "no digest that could be compared"),
    ],
)
def test_an_object_is_right_when_all_that_it_tells_is(held: Held | None, wrong: str | None) -> None:
    assert difference(held, 9, (SHA256, MD5)) == wrong


@pytest.mark.parametrize(
    ("scheme", "text", "place"),
    [
        (Scheme.S3, "my-models-bucket", "s3://my-models-bucket"),
        (Scheme.S3, "my-bucket/nim/models/", "s3://my-bucket/nim/models"),
        (Scheme.S3, "s3://my-bucket/prefix", "s3://my-bucket/prefix"),
        (Scheme.S3, "nim_bucket", "s3://nim_bucket"),
        (Scheme.GS, "my-bucket", "gs://my-bucket"),
        (Scheme.GS, "gs://my-bucket/prefix/", "gs://my-bucket/prefix"),
    ],
)
def test_a_bucket_is_named_alone_with_a_prefix_or_by_its_uri(scheme: Scheme, text: str, place: str) -> None:
    assert str(bucket_location(scheme, text)) == place


@pytest.mark.parametrize(
    ("scheme", "text", "said"),
    [
        (Scheme.S3, "hf://meta/llama", "model registries are not valid destinations"),
        (Scheme.S3, "modelscope://meta/llama", "model registries are not valid destinations"),
        (Scheme.GS, "ngc://nim/meta/tiny:1", "model registries are not valid destinations"),
        (Scheme.S3, "gs://bucket", "is no s3:// bucket"),
        (Scheme.GS, "s3://bucket", "is no gs:// bucket"),
        (Scheme.S3, "https://host/bucket", "is no s3:// bucket"),
        (Scheme.S3, "/models", "is no s3:// bucket"),
        (Scheme.S3, "bucket?file=x", "is no s3:// bucket"),
        (Scheme.S3, "", "is not the name of a bucket"),
        (Scheme.S3, "A!", "is not the name of a bucket"),
    ],
)
def test_another_place_is_refused_with_the_forms(scheme: Scheme, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        bucket_location(scheme, text)
    assert f"{scheme}://bucket/prefix" in (caught.value.remedy or "")
