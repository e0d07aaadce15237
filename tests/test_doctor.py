"""``lading doctor``: what lies between this machine and a model's files."""

import json
from pathlib import Path

import pytest

from lading.doctor import examine
from lading.errors import DigestMismatch, OfflineError, SourceUnreachable, Unauthorized, UsageError
from lading.model.manifest import Manifest
from lading.sources.interface import Access
from lading.uri import ModelUri
from tests.models import tiny_model
from tests.program import environment, run
from tests.simulators.faults import Status
from tests.simulators.hub import HubSimulator
from tests.simulators.memory_source import Fault, MemorySource
from tests.sources.servers import ForwardProxy

TINY = ModelUri.parse("hf://demo/tiny")
TOKEN = "hf_canary"


class Broken(MemorySource):
    """A source whose listing fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def list_files(self, model: ModelUri) -> Manifest:
        raise self.error


def filled() -> MemorySource:
    source = MemorySource()
    source.add("config.json", b"{}")
    source.add("empty.txt", b"")
    source.add("model.safetensors", b"weights")
    source.add("pytorch_model.bin", b"weights")
    return source


class TestExamining:
    def test_it_lists_chooses_and_reads_one_byte(self) -> None:
        source = filled()
        ticks = iter([10.0, 12.5])
        found = examine(TINY, source, lambda: next(ticks))
        assert found.access == Access("demo/tiny", None)
        assert found.manifest and [file.path for file in found.manifest.files] == [
            "config.json",
            "empty.txt",
            "model.safetensors",
        ]
        assert [each.entry.path for each in found.skipped] == ["pytorch_model.bin"]
        assert (found.seconds, found.answers, found.fault) == (2.5, True, None)
        assert found.sample and found.sample.path == "config.json"
        assert [(each.path, each.start, each.end) for each in source.requests] == [("config.json", 0, 1)]

    def test_bytes_that_do_not_come_are_a_fault_after_the_listing(self) -> None:
        source = filled()
        source.fail("config.json", Fault(refuse=SourceUnreachable("storage is closed")))
        found = examine(TINY, source)
        assert found.manifest and found.answers
        assert (found.sample, str(found.fault)) == (None, "storage is closed")

    @pytest.mark.parametrize(
        ("error", "answers"),
        [
            (Unauthorized("no"), True),
            (SourceUnreachable("no"), False),
            (OfflineError("no"), False),
            (UsageError("no"), None),
            (DigestMismatch("no"), None),
        ],
    )
    def test_a_refusal_is_an_answer(self, error: Exception, answers: bool | None) -> None:
        found = examine(TINY, Broken(error))
        assert (found.answers, found.fault, found.manifest) == (answers, error, None)

    def test_defects_are_not_findings(self) -> None:
        with pytest.raises(ZeroDivisionError):
            examine(TINY, Broken(ZeroDivisionError()))


class TestCommand:
    def test_a_gated_model_is_examined_through_a_proxy(self, tmp_path: Path) -> None:
        with HubSimulator() as hub, ForwardProxy() as proxy:
            commit = hub.add_model("demo/tiny", tiny_model(), private=True)
            hub.require_token(TOKEN)
            environ = environment(
                tmp_path, HF_ENDPOINT=hub.endpoint, HF_TOKEN=TOKEN, http_proxy=proxy.url, NO_PROXY="other.test"
            )
            done = run(["doctor", "hf://demo/tiny"], environ)
            as_json = run(["doctor", "hf://demo/tiny", "--format", "json"], environ)
        assert done.returncode == as_json.returncode == 0
        lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
        assert ["credential", "HF_TOKEN"] in lines
        assert ["asked", f"at    {hub.endpoint}"] in lines
        assert ["proxy", f"{proxy.url} (http_proxy)"] in lines
        assert f"{len(tiny_model())} files" in done.stdout
        assert f"at {commit}" in done.stdout
        assert ["verdict", "this machine can read it"] in lines
        told = json.loads(as_json.stdout)
        assert (told["credential"], told["revision"], told["error"]) == ("HF_TOKEN", commit, None)
        assert {file["path"] for file in told["files"]} == set(tiny_model())
        assert TOKEN not in done.stdout + done.stderr + as_json.stdout + as_json.stderr
        assert not (tmp_path / "cache").exists()

    def test_what_is_wrong_is_said_after_what_was_found(self, tmp_path: Path) -> None:
        with HubSimulator() as hub:
            hub.add_model("demo/tiny", tiny_model(), private=True)
            done = run(["doctor"], environment(tmp_path, HF_ENDPOINT=hub.endpoint, NIM_MODEL_PATH="hf://demo/tiny"))
        assert done.returncode == 3
        assert "credential  none found\n            looked for HF_TOKEN\n" in done.stdout
        assert "answers     yes: " in done.stdout
        assert done.stdout.endswith("verdict     this machine cannot read it\n")
        assert done.stderr.startswith("error: ")

    def test_json_tells_the_error_too(self, tmp_path: Path) -> None:
        with HubSimulator() as hub:
            hub.fault(None, Status(404), times=None)
            done = run(["doctor", "hf://demo/no", "--format", "json"], environment(tmp_path, HF_ENDPOINT=hub.endpoint))
        told = json.loads(done.stdout)
        assert (
            (told["answers"], told["files"], told["error"]["exit_code"])
            == (True, None, 3)
            == (
                True,
                None,
                done.returncode,
            )
        )

    def test_a_directory_needs_nothing(self, tmp_path: Path) -> None:
        for path, data in tiny_model().items():
            (tmp_path / "model" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "model" / path).write_bytes(data)
        done = run(["doctor", str(tmp_path / "model")], environment(tmp_path))
        assert done.returncode == 0
        assert "credential  none needed\n" in done.stdout

    def test_what_stands_in_for_ngc_is_named(self, tmp_path: Path) -> None:
        environ = environment(tmp_path, NIM_REPOSITORY_OVERRIDE="http://127.0.0.1:1/m", LADING_OFFLINE="1")
        done = run(["doctor", "ngc://a/b:1?file=c"], environ)
        assert done.returncode == 3
        assert "source      Files of an HTTP server\noverride    NIM_REPOSITORY_OVERRIDE=http://127.0.0.1:1/m\n" in (
            done.stdout
        )


def test_a_listing_of_many_files_is_cut_for_people_only(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for number in range(60):
        (tmp_path / "model" / f"{number:02}.json").write_bytes(b"{}")
    done = run(["doctor", str(tmp_path / "model")], environment(tmp_path))
    assert "... and 20 more" in done.stdout
    told = json.loads(run(["doctor", str(tmp_path / "model"), "--format", "json"], environment(tmp_path)).stdout)
    assert len(told["files"]) == 60
