"""Announcements of running servers."""

import json
import os
import socket
from pathlib import Path

import pytest

from lading.cache.use import STALE_SECONDS, Use, announced, drop_dead_uses, live_uses
from lading.digest import Digest
from lading.uri import ModelUri

MODEL = ModelUri.parse("hf://org/model:v1")
DIGEST = Digest.of(b"weights")


def uses(directory: Path, now: float | None = None) -> list[Use]:
    stamps = [path.stat().st_mtime for path in directory.glob("*.json")]
    return list(live_uses(directory, max(stamps, default=0.0) if now is None else now))


def leave(directory: Path, use: Use) -> Path:
    """What a server leaves that ended without a word."""
    path = directory / "0123456789abcdef.json"
    path.write_text(json.dumps(use.to_json()))
    return path


def test_a_use_is_there_while_it_lasts_and_grows(tmp_path: Path) -> None:
    with announced(tmp_path / "uses", MODEL) as announcement:
        assert uses(tmp_path / "uses") == [Use(MODEL, os.getpid(), socket.gethostname())]
        announcement.extend(tmp_path / "workspace", [DIGEST])
        (use,) = uses(tmp_path / "uses")
        assert (use.workspace, use.digests) == (str(tmp_path / "workspace"), frozenset({DIGEST}))
        assert Use.from_json(use.to_json()) == use
    assert list((tmp_path / "uses").iterdir()) == []


def test_a_process_of_this_host_uses_as_long_as_it_lives(tmp_path: Path) -> None:
    leave(tmp_path, Use(MODEL, os.getpid(), socket.gethostname()))
    assert uses(tmp_path, now=1e12)


@pytest.mark.parametrize("host", ["elsewhere", socket.gethostname()])
def test_others_use_as_long_as_they_touch_their_file(tmp_path: Path, host: str) -> None:
    path = leave(tmp_path, Use(MODEL, 2**22 + 1, host))
    touched_at = path.stat().st_mtime
    assert uses(tmp_path, touched_at + STALE_SECONDS - 1)
    assert not uses(tmp_path, touched_at + STALE_SECONDS + 1)
    drop_dead_uses(tmp_path, touched_at + STALE_SECONDS - 1)
    assert path.exists()
    drop_dead_uses(tmp_path, touched_at + STALE_SECONDS + 1)
    assert not path.exists()


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"source": "no uri", "digests": []}', b"\xff"])
def test_what_cannot_be_read_is_no_use(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "00.json").write_bytes(text)
    assert uses(tmp_path) == []
    drop_dead_uses(tmp_path, 0.0)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_a_server_goes_on(tmp_path: Path) -> None:
    (tmp_path / "uses").write_bytes(b"a file")
    with announced(tmp_path / "uses", MODEL) as announcement:
        announcement.extend(tmp_path, [DIGEST])
    assert (tmp_path / "uses").read_bytes() == b"a file"


def test_no_directory_no_uses(tmp_path: Path) -> None:
    assert uses(tmp_path / "none") == []
    drop_dead_uses(tmp_path / "none", 0.0)
