"""What a mirror needs of a bucket, of real S3 servers (rclone, Ceph), Google's emulator, and simulators of both clouds."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from lading.digest import Digest
from lading.errors import (
    ContentError,
    DigestMismatch,
    ModelNotFound,
    SourceProtocolError,
    SourceUnreachable,
    Unauthorized,
)
from lading.events import BytesSent, Event, FileStored, Note, RetryScheduled, UploadFinished, UploadStarted
from lading.mirror import Mirrored, MirrorPlan, Step, mirror, mirrored_files, survey_mirror
from lading.pipeline import TransferCancelled, TransferOptions
from lading.sources.answer import Answer
from lading.sources.gcs import WRITING, GcsSource
from lading.sources.gcs_credentials import Places
from lading.sources.gcs_upload import GcsDestination
from lading.sources.interface import PassingFault
from lading.sources.override import BucketMirror, flat_name
from lading.sources.upload import Body
from lading.uri import ModelUri
from tests.simulators.ceph import Ceph
from tests.simulators.google import GoogleSimulator
from tests.simulators.s3 import S3Simulator
from tests.sources.destinations import (
    Sent,
    Stand,
    TellingClient,
    Written,
    aws_stand,
    gcs_stand,
    s3_stand,
    written,
)
from tests.sources.test_gcs import Emulator, credentials_at, emulator
from tests.sources.test_huggingface import read
from tests.sources.test_s3 import KEYS, needs_rclone, no_credentials, rclone

__all__ = ["emulator", "no_credentials"]

pytest.importorskip("botocore", reason="botocore is not installed: pip install 'lading[s3]'")
pytest.importorskip("google_crc32c", reason="google-crc32c is not installed: pip install 'lading[gcs]'")
pytestmark = pytest.mark.timeout(400)  # the first test on Ceph starts the cluster

PART = 5 << 20
LARGE = random.Random(7).randbytes(2 * PART + 1234)
MODEL = ModelUri.parse("ngc://nim/meta/tiny:hf-1+2")
WEIGHTS = "model.safetensors"
FILES = {
    "config.json": b"{}",
    "a?b=c%20d:e&f#.txt": b"odd",
    "ünïcode/模型 1+2.bin": b"\r\n--cut\r\n" * 1000,
    "empty": b"",
    WEIGHTS: LARGE,
}
KINDS = ["ceph", "rclone", "s3", "aws", "aws-kms", "google", "emulator"]
IN_PARTS = [kind for kind in KINDS if kind != "emulator"]
QUICK = TransferOptions(connections=3, first_delay_seconds=0.01, longest_delay_seconds=0.02)


@pytest.fixture(params=KINDS)
def stand(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    yield from standing(request.param, request, tmp_path, monkeypatch)


def standing(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stand]:
    bucket = f"bucket-{os.getpid()}-{abs(hash(request.node.nodeid)) % 10**9}"
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    match kind:
        case "ceph":
            gateway: Ceph = request.getfixturevalue("gateway")
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", gateway.access_key)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", gateway.secret_key)
            make_bucket(gateway, bucket)
            yield s3_stand(gateway.endpoint, bucket)
        case "rclone":
            (tmp_path / "root" / bucket).mkdir(parents=True)
            with rclone(tmp_path / "root", tmp_path / "log", "--dir-cache-time", "0s") as endpoint:
                yield replace(s3_stand(endpoint, bucket), bears_rivals=False)
        case "s3" | "aws" | "aws-kms":
            with S3Simulator() as s3:
                about = s3.add(bucket, {})
                if kind == "aws-kms":
                    about.uploads.etags_are_md5 = False
                    about.headers["x-amz-server-side-encryption"] = "aws:kms"
                yield s3_stand(s3.endpoint, bucket, s3) if kind == "s3" else aws_stand(s3, bucket)
        case "google":
            with GoogleSimulator() as google:
                google.buckets[bucket] = {}
                yield gcs_stand(google.endpoint, bucket, google)
        case "emulator":
            server: Emulator = request.getfixturevalue("emulator")
            server.make_bucket(bucket)
            yield gcs_stand(server.endpoint, bucket)


def make_bucket(gateway: Ceph, name: str) -> None:
    from botocore.session import Session

    session = Session()
    session.set_credentials(gateway.access_key, gateway.secret_key)
    session.create_client("s3", "us-east-1", endpoint_url=gateway.endpoint).create_bucket(Bucket=name)


@pytest.fixture
def in_parts(stand: Stand) -> Stand:
    if not stand.takes_parts:
        pytest.skip("the emulator takes no uploads in parts")
    return stand


def plan_of(
    destination: Written, directory: Path, files: Mapping[str, bytes] = FILES, model: ModelUri = MODEL
) -> MirrorPlan:
    manifest, places = written(directory / "blobs", model, files)
    return survey_mirror(mirrored_files(manifest, places), destination, part_bytes=PART)


def carry_out(
    plan: MirrorPlan, destination: Written, events: list[Event] | None = None, cancelled: threading.Event | None = None
) -> Mirrored:
    report = events.append if events is not None else lambda _: None
    stop = cancelled or threading.Event()
    return mirror(plan, destination, report, cancelled=stop, options=QUICK, part_bytes=PART)


def contents(destination: Written, model: ModelUri = MODEL) -> dict[str, bytes]:
    """What ``NIM_REPOSITORY_OVERRIDE`` serves, every byte checked against the digest that it tells."""
    source = BucketMirror(destination.place, destination.bucket, destination.bucket)
    found = {}
    for file in source.list_files(model).files:
        found[file.path] = read(source, file)
        assert file.digest is None or Digest.of(found[file.path], file.digest.algorithm) == file.digest
        assert not file.size_bytes or file.digest == Digest.of(found[file.path])
    return found


class TestStored:
    def test_every_file_is_read_back_by_the_override_and_not_sent_twice(self, stand: Stand, tmp_path: Path) -> None:
        destination, _client = stand.connect()
        plan = plan_of(destination, tmp_path)
        assert {each.step for each in plan.files} == {Step.UPLOAD}
        events: list[Event] = []
        done = carry_out(plan, destination, events)
        size = sum(map(len, FILES.values()))
        assert done.sent_bytes == size == sum(each.count for each in events if isinstance(each, BytesSent))
        assert contents(destination) == FILES
        assert UploadStarted(len(FILES), size, 0) in events
        assert {each.path for each in events if isinstance(each, FileStored)} == set(FILES)
        assert isinstance(events[-1], UploadFinished)

        again, telling = stand.connect()
        second = plan_of(again, tmp_path)
        assert {each.step for each in second.files} == {Step.SKIP}
        assert carry_out(second, again).sent_bytes == 0
        assert telling.objects_with_bytes == []
        assert not [each for each in telling.sent if each.method in ("PUT", "POST", "DELETE")]

    def test_large_files_go_in_parts_and_leave_no_upload_behind(self, in_parts: Stand, tmp_path: Path) -> None:
        destination, client = in_parts.connect()
        carry_out(plan_of(destination, tmp_path), destination)
        assert sorted(each.size_bytes for each in client.parts) == [1234, PART, PART]
        assert destination.unfinished(name_of(WEIGHTS)) == []

    def test_what_another_version_or_program_left_under_the_name_is_replaced(
        self, stand: Stand, tmp_path: Path
    ) -> None:
        destination, _ = stand.connect()
        for path, data in (("config.json", b"[]"), ("empty", b"full")):
            destination.put(name_of(path), Digest.of(data), Body(data))
        reasons = {each.file.entry.path: each.reason for each in plan_of(destination, tmp_path).files}
        assert reasons["config.json"] == "other bytes are there"
        assert reasons["empty"] == "4 other bytes are there"
        carry_out(plan_of(destination, tmp_path), destination)
        assert contents(destination) == FILES

    def test_a_bucket_that_is_not_there_is_told_before_anything_is_sent(self, stand: Stand, tmp_path: Path) -> None:
        missing = replace(stand.place, location="no-such-bucket/x")
        destination, client = stand.connect()
        destination.place = missing
        with pytest.raises(ModelNotFound, match="no bucket"):
            plan_of(destination, tmp_path)
        assert client.objects_with_bytes == []

    def test_an_object_is_looked_at_and_removed(self, stand: Stand) -> None:
        destination, _ = stand.connect()
        assert destination.look_at("x%2Fy") is None
        destination.put("x%2Fy", Digest.of(b"data"), Body(b"data"))
        held = destination.look_at("x%2Fy")
        assert held and held.size_bytes == 4 and held.digests[0] == Digest.of(b"data")
        destination.remove("x%2Fy")
        destination.remove("x%2Fy")
        assert destination.look_at("x%2Fy") is None


def name_of(path: str) -> str:
    return flat_name(MODEL.with_file(path))


class TestContinued:
    def cut_off(self, stand: Stand, tmp_path: Path) -> None:
        """A run that was stopped when the first part was stored."""
        destination, client = stand.connect()
        cancelled, free = threading.Event(), threading.Lock()

        def count(sent: Sent, answer: Answer) -> Answer:
            if "partNumber" in sent.query:
                cancelled.set()
            return answer

        def hold(sent: Sent) -> None:
            """Let one part through, and the others wait until all is over."""
            if "partNumber" in sent.query and not free.acquire(blocking=False):
                cancelled.wait(30)
                time.sleep(0.5)  # until the run has seen it
                raise PassingFault("the line is cut")

        client.after, client.before = count, hold
        files = {WEIGHTS: LARGE}
        with pytest.raises(TransferCancelled):
            carry_out(plan_of(destination, tmp_path, files), destination, cancelled=cancelled)

    def test_parts_that_are_stored_are_not_sent_again(self, in_parts: Stand, tmp_path: Path) -> None:
        self.cut_off(in_parts, tmp_path)
        destination, client = in_parts.connect()
        plan = plan_of(destination, tmp_path)
        (large,) = [each for each in plan.files if each.file.entry.path == WEIGHTS]
        assert large.step is Step.CONTINUE
        assert 0 < large.sent_bytes < len(LARGE)
        done = carry_out(plan, destination)
        assert done.sent_bytes == sum(map(len, FILES.values())) - large.sent_bytes
        assert sum(each.size_bytes for each in client.parts) == len(LARGE) - large.sent_bytes
        assert contents(destination) == FILES
        assert destination.unfinished(name_of(WEIGHTS)) == []

    def test_a_part_of_other_bytes_is_sent_again(self, in_parts: Stand, tmp_path: Path) -> None:
        """As of a file that was damaged then; its size tells nothing."""
        destination, _client = in_parts.connect()
        upload = destination.begin(name_of(WEIGHTS), Digest.of(LARGE))
        destination.send_part(upload, 1, Body(LARGE[PART : 2 * PART]))
        carry_out(plan_of(destination, tmp_path), destination)
        assert contents(destination) == FILES

    def test_an_upload_of_other_bytes_that_was_left_is_never_completed_as_ours(
        self, in_parts: Stand, tmp_path: Path
    ) -> None:
        """Its parts are right, but what it will say of itself is not."""
        destination, _client = in_parts.connect()
        upload = destination.begin(name_of(WEIGHTS), Digest.of(b"other"))
        destination.send_part(upload, 1, Body(LARGE[:PART]))
        with pytest.raises(DigestMismatch, match="has it wrongly .*it was deleted there"):
            carry_out(plan_of(destination, tmp_path), destination)
        assert destination.look_at(name_of(WEIGHTS)) is None
        carry_out(plan_of(destination, tmp_path), destination)
        assert contents(destination) == FILES

    def test_a_lost_answer_to_the_completion_is_no_fault(self, in_parts: Stand, tmp_path: Path) -> None:
        destination, client = in_parts.connect()
        lost: list[Sent] = []

        def lose(sent: Sent, answer: Answer) -> Answer:
            if sent.method == "POST" and "uploadId" in sent.query and not lost:
                lost.append(sent)
                raise PassingFault("the connection broke off")
            return answer

        client.after = lose
        carry_out(plan_of(destination, tmp_path), destination)
        assert lost
        assert len(client.parts) == 3
        assert contents(destination) == FILES

    def test_an_upload_that_somebody_gives_up_is_begun_anew(self, in_parts: Stand, tmp_path: Path) -> None:
        if not in_parts.bears_rivals:
            pytest.skip("rclone never answers to the parts in flight of an upload that is given up")
        destination, client = in_parts.connect()
        given_up: list[Sent] = []

        def give_up(sent: Sent) -> None:
            if "partNumber=3" in sent.query and not given_up:
                given_up.append(sent)
                other, _ = in_parts.connect()
                for upload in other.unfinished(name_of(WEIGHTS)):
                    other.abandon(upload)
                    other.abandon(upload)

        client.before = give_up
        events: list[Event] = []
        carry_out(plan_of(destination, tmp_path), destination, events)
        assert given_up
        assert [each for each in events if isinstance(each, Note) and "ended by somebody else" in each.text]
        assert contents(destination) == FILES

    def test_two_mirrors_at_the_same_time_do_not_harm_each_other(self, in_parts: Stand, tmp_path: Path) -> None:
        """The second goes on with the uploads of the first."""
        if not in_parts.bears_rivals:
            pytest.skip("rclone deletes an object before it puts another in its place")
        (one, _), (two, _) = in_parts.connect(), in_parts.connect()
        plans = [(plan_of(each, tmp_path / str(number)), each) for number, each in enumerate((one, two))]
        with ThreadPoolExecutor(2) as threads:
            for done in threads.map(lambda each: carry_out(*each), plans):
                assert done.plan.upload_bytes
        assert contents(one) == FILES
        assert {each.step for each in plan_of(two, tmp_path / "after").files} == {Step.SKIP}


class TestDamage:
    @pytest.mark.parametrize("path", [WEIGHTS, "config.json"])
    def test_a_blob_that_is_damaged_is_never_stored(self, stand: Stand, tmp_path: Path, path: str) -> None:
        destination, _ = stand.connect()
        manifest, places = written(tmp_path / "blobs", MODEL, {path: FILES[path]})
        blob = places[path]
        blob.write_bytes(blob.read_bytes()[:-1] + b"!")
        plan = survey_mirror(mirrored_files(manifest, places), destination, part_bytes=PART)
        with pytest.raises(DigestMismatch, match="its file in the cache is damaged") as caught:
            carry_out(plan, destination)
        assert "lading cache verify" in (caught.value.remedy or "")
        assert destination.look_at(name_of(path)) is None
        if stand.takes_parts:
            assert destination.unfinished(name_of(path)) == []

    def test_bytes_that_the_line_spoils_are_sent_again(self, stand: Stand, tmp_path: Path) -> None:
        destination, client = stand.connect()
        left = {"small": 1, "large": 1}

        def spoil(sent: Sent, data: bytes) -> bytes:
            kind = "large" if sent.size_bytes > PART - 1 else "small"
            if sent.method in ("PUT", "POST") and sent.size_bytes > 1000 and left[kind]:
                left[kind] -= 1
                return data[:-500] + bytes([data[-500] ^ 1]) + data[-499:]
            return data

        client.spoil = spoil
        events: list[Event] = []
        carry_out(plan_of(destination, tmp_path), destination, events)
        assert left == {"small": 0, "large": 0}
        assert [each for each in events if isinstance(each, RetryScheduled)]
        assert sum(each.count for each in events if isinstance(each, BytesSent)) >= sum(map(len, FILES.values()))
        assert contents(destination) == FILES

    def test_a_line_that_stays_cut_is_an_error_with_the_number_of_tries(self, stand: Stand, tmp_path: Path) -> None:
        destination, client = stand.connect()
        plan = plan_of(destination, tmp_path, {"config.json": b"{}"})

        def cut(sent: Sent) -> None:
            raise PassingFault("the line is cut")

        client.before = cut
        with pytest.raises(SourceUnreachable, match="config.json: not stored in 9 tries: the line is cut"):
            carry_out(plan, destination)

    @pytest.mark.parametrize("path", [WEIGHTS, "config.json"])
    def test_an_object_that_is_stored_wrongly_is_deleted(self, stand: Stand, tmp_path: Path, path: str) -> None:
        """By a server, or whatever is behind it, that keeps other bytes than it took."""
        destination, client = stand.connect()
        plan = plan_of(destination, tmp_path, {path: FILES[path]})

        def replaced(sent: Sent) -> None:
            if sent.method == "HEAD" or "fields=" in sent.query:
                client.before = lambda _: None
                destination.put(name_of(path), Digest.of(b"??"), Body(b"??"))

        client.before = replaced
        with pytest.raises(ContentError, match="has it wrongly"):
            carry_out(plan, destination)
        assert destination.look_at(name_of(path)) is None


def test_a_server_without_uploads_in_parts_gets_large_files_in_one_request(tmp_path: Path) -> None:
    with GoogleSimulator() as google:
        google.buckets["models"] = {}
        google.takes_parts = False
        stand = gcs_stand(google.endpoint, "models", google)
        destination, client = stand.connect()
        events: list[Event] = []
        carry_out(plan_of(destination, tmp_path), destination, events)
        assert contents(destination) == FILES
    assert client.parts == []
    assert [each for each in events if isinstance(each, Note) and "sending it in one request" in each.text]


@needs_rclone
def test_a_server_that_forgot_the_metadata_is_compared_by_what_it_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rclone keeps metadata in memory; started again it tells the MD5 of files, of those that came in parts too."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "root/models").mkdir(parents=True)
    for step in (Step.UPLOAD, Step.SKIP):
        with rclone(tmp_path / "root", tmp_path / "log") as endpoint:
            (tmp_path / "log").rename(tmp_path / f"{step}.log")
            destination, _ = s3_stand(endpoint, "models").connect()
            plan = plan_of(destination, tmp_path)
            assert {each.step for each in plan.files} == {step}
            carry_out(plan, destination)


class TestRights:
    def test_a_bucket_that_may_not_be_written_names_the_rights(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)
        with S3Simulator() as s3:
            s3.add("models", {}).is_read_only = True
            destination, _ = s3_stand(s3.endpoint, "models").connect()
            with pytest.raises(Unauthorized, match="does not let the bucket models be written to") as caught:
                carry_out(plan_of(destination, tmp_path), destination)
        assert caught.value.exit_code == 3
        assert "s3:PutObject" in (caught.value.remedy or "")

    def test_nobody_is_told_which_credentials_to_set(self, tmp_path: Path) -> None:
        with S3Simulator() as s3:
            s3.add("models", {})
            destination, _ = s3_stand(s3.endpoint, "models").connect()
            with pytest.raises(Unauthorized, match="no AWS credentials were found") as caught:
                plan_of(destination, tmp_path)
        assert "AWS_ACCESS_KEY_ID" in (caught.value.remedy or "")

    def test_where_uploads_may_not_be_listed_they_are_not_continued(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)
        with S3Simulator() as s3:
            s3.add("models", {})
            stand = s3_stand(s3.endpoint, "models")
            destination, client = stand.connect()
            refusal = Answer(403, {}, b"<Error><Code>AccessDenied</Code></Error>", s3.endpoint)
            client.after = lambda sent, answer: refusal if "uploads" in sent.query and sent.method == "GET" else answer
            carry_out(plan_of(destination, tmp_path), destination)
            assert contents(destination) == FILES
        notes = [each.text for each in stand.events if isinstance(each, Note)]
        assert "s3:ListBucketMultipartUploads" in notes[0] or "are not continued" in notes[0]

    def test_google_names_the_role(self, tmp_path: Path) -> None:
        with GoogleSimulator() as google:
            google.buckets["models"] = {}
            google.require_token()
            destination, _ = gcs_stand(google.endpoint, "models", google).connect()
            with pytest.raises(Unauthorized, match="no Google credentials were found") as caught:
                plan_of(destination, tmp_path)
        assert "GOOGLE_APPLICATION_CREDENTIALS" in (caught.value.remedy or "")

    def test_an_account_that_may_only_read_is_told_the_role(self) -> None:
        with GoogleSimulator() as google:
            google.buckets["models"] = {}
            google.require_token()
            google.forbidden = True
            credentials = credentials_at(Places(None, None, f"127.0.0.1:{google.port}"))
            place = ModelUri.parse("gs://models")
            source = GcsSource(TellingClient(), credentials, google.endpoint, WRITING)
            destination = GcsDestination(place, source, lambda _: None)
            calls: list[Callable[[], object]] = [
                lambda: destination.put("x", Digest.of(b"x"), Body(b"x")),
                lambda: destination.begin("x", Digest.of(b"x")),
                lambda: destination.look_at("x"),
                lambda: destination.remove("x"),
            ]
            for call in calls:
                with pytest.raises(Unauthorized, match="may not write to gs://models") as caught:
                    call()
                assert "roles/storage.objectUser" in (caught.value.remedy or "")


class TestOddServers:
    """What answers in a bucket's place, or in no way that is known."""

    @pytest.fixture
    def odd(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Written, TellingClient]]:
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)
        with S3Simulator() as s3:
            s3.add("models", {})
            yield s3_stand(s3.endpoint, "models").connect()

    def test_an_answer_that_is_no_upload_is_told(self, odd: tuple[Written, TellingClient]) -> None:
        destination, client = odd
        client.after = lambda _, answer: replace(answer, body=b"<html>log in</html>")
        with pytest.raises(SourceProtocolError, match="does not take uploads in parts as S3 does"):
            destination.begin("x", Digest.of(b""))

    def test_a_completion_that_fails_for_now_is_asked_again(
        self, odd: tuple[Written, TellingClient], tmp_path: Path
    ) -> None:
        destination, client = odd
        codes = ["InternalError", "OperationAborted"]

        def replaced(sent: Sent, answer: Answer) -> Answer:
            return replace(answer, status=200, body=f"<Error><Code>{codes.pop()}</Code></Error>".encode())

        client.after = lambda sent, answer: (
            replaced(sent, answer) if codes and sent.method == "POST" and "uploadId" in sent.query else answer
        )
        carry_out(plan_of(destination, tmp_path), destination)
        assert not codes
        assert contents(destination) == FILES

    def test_a_part_that_is_stored_as_others_is_refused(self, odd: tuple[Written, TellingClient]) -> None:
        destination, client = odd
        upload = destination.begin("x", Digest.of(b"data"))
        client.after = lambda _, answer: replace(answer, headers={"ETag": f'"{"0" * 32}"'})
        with pytest.raises(PassingFault, match="stored other bytes"):
            destination.send_part(upload, 1, Body(b"data"))

    def test_an_object_without_a_size_is_told(self, odd: tuple[Written, TellingClient]) -> None:
        destination, client = odd
        client.after = lambda _, answer: replace(answer, status=200, headers={})
        with pytest.raises(SourceProtocolError, match="no size"):
            destination.look_at("x")

    @pytest.mark.parametrize("body", [b"{}", b"[]", b'{"size": "9", "crc32c": "?"}'])
    def test_an_object_that_google_describes_wrongly_is_told(self, body: bytes) -> None:
        with GoogleSimulator() as google:
            google.buckets["models"] = {}
            destination, client = gcs_stand(google.endpoint, "models").connect()
            client.after = lambda _, answer: replace(answer, status=200, body=body)
            with pytest.raises(SourceProtocolError, match="wrongly"):
                destination.look_at("x")


class TestPages:
    def test_long_lists_of_uploads_and_of_parts_are_read_to_their_ends(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)
        with S3Simulator() as s3:
            s3.add("models", {}).uploads.page_size = 2
            destination, _ = s3_stand(s3.endpoint, "models").connect()
            begun = [destination.begin("name+%2F", Digest.of(b"")) for _ in range(5)]
            destination.begin("name+%2F2", Digest.of(b""))
            for number in range(1, 6):
                destination.send_part(begun[3], number, Body(b"x" * number))
            found = {each.id: each for each in destination.unfinished("name+%2F")}
        assert set(found) == {each.id for each in begun}
        assert [(part.number, part.size_bytes) for part in found[begun[3].id].parts] == [(n, n) for n in range(1, 6)]
        assert found[begun[3].id].sent_bytes == 15


def test_a_limit_of_bytes_per_second_holds_for_uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    waits: list[float] = []
    options = TransferOptions(
        max_bytes_per_second=1 << 20, clock=lambda: 0.0, wait=lambda _, seconds: waits.append(seconds)
    )
    with S3Simulator() as s3:
        s3.add("models", {})
        destination, _ = s3_stand(s3.endpoint, "models").connect()
        plan = plan_of(destination, tmp_path, {"weights": bytes(3 << 20)})
        mirror(plan, destination, cancelled=threading.Event(), options=options)
    assert max(waits) == pytest.approx(3.0)
