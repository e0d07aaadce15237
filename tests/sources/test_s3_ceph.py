"""The S3 source against Ceph's gateway: signatures, conditions, versions and multipart uploads as a real server has them."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from lading.cache.root import CacheRoot, open_cache
from lading.digest import Digest
from lading.errors import ContentError, DigestMismatch, FileNotFoundAtSource, ModelNotFound, Unauthorized
from lading.model.manifest import FileEntry, Manifest
from lading.settings import Settings
from lading.sources import source_for
from lading.sources.interface import Source
from lading.transfer import TransferOptions, survey, transfer
from lading.uri import ModelUri
from tests.simulators import ceph
from tests.sources.servers import assert_hidden
from tests.sources.test_huggingface import WEIGHTS, read

pytest.importorskip("botocore", reason="botocore is not installed: pip install 'lading[s3]'")
pytestmark = [
    pytest.mark.skipif(ceph.lack() is not None, reason=ceph.lack() or ""),
    pytest.mark.timeout(400),  # the first test starts the cluster
    pytest.mark.usefixtures("nobody"),
]

NAMES = {
    "config.json": b"{}",
    "__init__.py": b"",
    "with space.bin": b"1",
    "a+b%2Bc%20d.bin": b"2",
    "ünïcode/模型.bin": b"3",
    "a&b=c;d,'(e)!*@:$?#.txt": b"4",
    "~tilde/.hidden": b"5",
}


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials of this machine's: what is read from a file is not there, and no metadata server is asked."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")


@pytest.fixture
def keys(gateway: ceph.Ceph, nobody: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", gateway.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", gateway.secret_key)


@pytest.fixture
def owner(gateway: ceph.Ceph) -> Any:
    """The client of whoever fills the buckets."""
    from botocore.config import Config
    from botocore.session import Session

    session = Session()
    session.set_credentials(gateway.access_key, gateway.secret_key)
    config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
    return session.create_client("s3", "us-east-1", endpoint_url=gateway.endpoint, config=config)


def filled(owner: Any, bucket: str, objects: dict[str, bytes], **about: Any) -> ModelUri:
    """A new bucket that holds the objects below ``m/``; the URI of that model."""
    owner.create_bucket(Bucket=bucket, **about)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: owner.put_object(Bucket=bucket, Key=f"m/{key}", Body=objects[key]), objects))
    return ModelUri.parse(f"s3://{bucket}/m")


def source_at(gateway: ceph.Ceph, **environ: str) -> Source:
    settings = Settings.from_env({"AWS_ENDPOINT_URL": gateway.endpoint, **environ})
    return source_for(ModelUri.parse("s3://any"), settings)


def opened(path: Path) -> CacheRoot:
    return open_cache(path, default=path, fallback=path)


def transferred(manifest: Manifest, source: Source, cache: CacheRoot) -> None:
    options = TransferOptions(connections=3, part_bytes=1 << 20)
    transfer(survey(manifest, source, cache), source, cache, cancelled=Event(), options=options)


def only(source: Source, model: ModelUri) -> FileEntry:
    (entry,) = source.list_files(model).files
    return entry


@pytest.mark.usefixtures("keys")
class TestAddresses:
    def test_every_name_is_listed_and_read(self, gateway: ceph.Ceph, owner: Any) -> None:
        model = filled(owner, "names", NAMES)
        source = source_at(gateway)
        files = source.list_files(model).files
        assert {entry.path: read(source, entry) for entry in files} == NAMES
        assert {entry.path: entry.digest for entry in files if entry.size_bytes} == {
            path: Digest.of(data, "md5") for path, data in NAMES.items() if data
        }
        one = source.list_files(ModelUri.parse("s3://names?file=m/with space.bin")).files
        assert [read(source, entry) for entry in one] == [b"1"]

    def test_a_host_name_per_bucket_is_signed_as_well(self, gateway: ceph.Ceph, owner: Any) -> None:
        """The gateway takes the bucket from the host, which leads to it as to a proxy."""
        model = filled(owner, "hosts", NAMES)
        port = gateway.endpoint.rpartition(":")[2]
        environ = {"AWS_ENDPOINT_URL": f"http://localhost:{port}", "HTTP_PROXY": gateway.endpoint}
        source = source_at(gateway, AWS_S3_ADDRESSING_STYLE="virtual", **environ)
        assert source.access(model).endpoint.startswith("http://hosts.localhost")
        assert {entry.path: read(source, entry) for entry in source.list_files(model).files} == NAMES

    def test_more_than_a_thousand_objects_are_listed(
        self, gateway: ceph.Ceph, owner: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lading.sources.s3.MOST_PROBED", 0)
        model = filled(owner, "many", {f"{number:04} +%.bin": b"" for number in range(1003)})
        assert len(source_at(gateway).list_files(model).files) == 1003


class TestRights:
    def test_a_wrong_secret_and_an_unknown_key_are_told_apart(
        self, gateway: ceph.Ceph, owner: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = filled(owner, "private", {"w": WEIGHTS})
        with pytest.raises(Unauthorized, match="no AWS credentials were found"):
            source_at(gateway).list_files(model)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", gateway.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
        with pytest.raises(Unauthorized, match="rejects the signature") as caught:
            source_at(gateway).list_files(model)
        assert_hidden(caught.value, "hunter2")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
        with pytest.raises(Unauthorized, match="does not know the access key"):
            source_at(gateway).list_files(model)

    def test_a_public_bucket_needs_no_credentials(self, gateway: ceph.Ceph, owner: Any) -> None:
        model = filled(owner, "public", {}, ACL="public-read")
        owner.put_object(Bucket="public", Key="m/w", Body=WEIGHTS, ACL="public-read")
        source = source_at(gateway)
        assert (read(source, only(source, model)), source.access(model).credential) == (WEIGHTS, None)

    def test_a_role_is_assumed_and_signs_with_its_session(
        self, gateway: ceph.Ceph, owner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = filled(owner, "roles", {"w": WEIGHTS})
        profile = f"[profile lab]\nrole_arn = {gateway.role}\nsource_profile = base\n"
        keys = (
            f"[profile base]\naws_access_key_id = {gateway.access_key}\naws_secret_access_key = {gateway.secret_key}\n"
        )
        (tmp_path / "config").write_text(profile + keys)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", gateway.token_endpoint)
        lab = {"AWS_PROFILE": "lab", "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": gateway.token_endpoint}
        source = source_at(gateway, **lab)
        assert read(source, only(source, model)) == WEIGHTS
        assert source.access(model).credential == "an assumed role (profile lab)"
        (tmp_path / "config").write_text(profile + keys.replace(gateway.secret_key, "hunter2"))
        with pytest.raises(Unauthorized, match="AssumeRole is refused") as caught:
            source_at(gateway, **lab).list_files(model)
        assert_hidden(caught.value, "hunter2")

    @pytest.mark.usefixtures("keys")
    def test_what_is_not_there_is_said(self, gateway: ceph.Ceph, owner: Any) -> None:
        filled(owner, "there", {"w": WEIGHTS})
        for missing in ("s3://nothing/m", "s3://there/n"):
            with pytest.raises(ModelNotFound):
                source_at(gateway).list_files(ModelUri.parse(missing))

    @pytest.mark.usefixtures("keys")
    def test_a_version_that_is_denied_is_read_by_its_etag(
        self, gateway: ceph.Ceph, owner: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As s3:GetObjectVersion is a right of its own, which policies of public buckets leave out."""
        model = filled(owner, "restricted", {})
        enable_versions(owner, "restricted")
        everything = ["arn:aws:s3:::restricted", "arn:aws:s3:::restricted/*"]
        policy = ceph.policy(["s3:GetObject", "s3:ListBucket"], Principal="*", Resource=everything)
        owner.put_bucket_policy(Bucket="restricted", Policy=policy)
        owner.put_object(Bucket="restricted", Key="m/w", Body=WEIGHTS)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        source = source_at(gateway)
        entry = only(source, model)
        assert entry.version is not None
        assert read(source, entry) == WEIGHTS
        owner.put_object(Bucket="restricted", Key="m/w", Body=b"newer")
        with pytest.raises(ContentError, match="changed"):
            read(source, entry)


def enable_versions(owner: Any, bucket: str, status: str = "Enabled") -> None:
    owner.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})


@pytest.mark.usefixtures("keys")
class TestPins:
    def test_an_object_that_was_replaced_or_deleted_is_found_out(self, gateway: ceph.Ceph, owner: Any) -> None:
        model = filled(owner, "changing", {"w": WEIGHTS})
        source = source_at(gateway)
        entry = only(source, model)
        assert entry.version is None
        owner.put_object(Bucket="changing", Key="m/w", Body=WEIGHTS[::-1])
        with pytest.raises(ContentError, match="changed after it was listed"):
            read(source, entry, 10, 20)
        owner.delete_object(Bucket="changing", Key="m/w")
        with pytest.raises(FileNotFoundAtSource):
            read(source, entry)

    def test_a_version_is_read_after_it_was_replaced_and_deleted_from_view(
        self, gateway: ceph.Ceph, owner: Any, tmp_path: Path
    ) -> None:
        filled(owner, "kept", {})
        enable_versions(owner, "kept")
        version = owner.put_object(Bucket="kept", Key="m/w", Body=WEIGHTS)["VersionId"]
        model = ModelUri.parse("s3://kept/m")
        source = source_at(gateway)
        manifest = source.list_files(model)
        assert manifest.files[0].version == version
        owner.put_object(Bucket="kept", Key="m/w", Body=b"newer")
        assert read(source, manifest.files[0], 10, 20) == WEIGHTS[10:20]
        owner.delete_object(Bucket="kept", Key="m/w")
        again = Manifest.from_json(json.loads(json.dumps(manifest.to_json())))
        transferred(again, source_at(gateway), opened(tmp_path))
        assert opened(tmp_path).store.path_of(Digest.of(WEIGHTS)).read_bytes() == WEIGHTS
        owner.delete_object(Bucket="kept", Key="m/w", VersionId=version)
        with pytest.raises(ContentError, match="was deleted"):
            read(source, manifest.files[0])

    def test_while_versions_are_suspended_etags_pin(self, gateway: ceph.Ceph, owner: Any) -> None:
        model = filled(owner, "suspended", {})
        enable_versions(owner, "suspended")
        enable_versions(owner, "suspended", "Suspended")
        owner.put_object(Bucket="suspended", Key="m/w", Body=WEIGHTS)
        source = source_at(gateway)
        entry = only(source, model)
        assert (entry.version, read(source, entry)) == (None, WEIGHTS)


@pytest.mark.usefixtures("keys")
class TestDigests:
    def test_a_multipart_upload_has_no_md5_and_is_fetched_whole(
        self, gateway: ceph.Ceph, owner: Any, tmp_path: Path
    ) -> None:
        parts = [WEIGHTS * 52, WEIGHTS]  # all but the last part have 5 MiB or more
        model = filled(owner, "parts", {})
        where = {"Bucket": "parts", "Key": "m/w"}
        upload = {**where, "UploadId": owner.create_multipart_upload(**where)["UploadId"]}
        etags = [
            {"PartNumber": number, "ETag": owner.upload_part(**upload, PartNumber=number, Body=part)["ETag"]}
            for number, part in enumerate(parts, 1)
        ]
        owner.complete_multipart_upload(**upload, MultipartUpload={"Parts": etags})
        source = source_at(gateway)
        entry = only(source, model)
        assert (entry.digest, entry.size_bytes) == (None, len(WEIGHTS) * 53)
        assert entry.etag is not None and entry.etag.endswith('-2"')
        cache = opened(tmp_path)
        transferred(source.list_files(model), source, cache)
        assert cache.store.path_of(Digest.of(b"".join(parts))).stat().st_size == entry.size_bytes

    def test_the_sha256_beside_an_object_is_promised_and_checked(
        self, gateway: ceph.Ceph, owner: Any, tmp_path: Path
    ) -> None:
        model = filled(owner, "promised", {})
        source = source_at(gateway)
        for told in (Digest.of(WEIGHTS), Digest.of(b"other")):
            owner.put_object(Bucket="promised", Key="m/w", Body=WEIGHTS, Metadata={"sha256": told.hex})
            assert only(source, model).digest == told
        with pytest.raises(DigestMismatch):
            transferred(source.list_files(model), source, opened(tmp_path))
