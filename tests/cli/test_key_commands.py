"""``lading api-key``."""

from __future__ import annotations

import io
import sys

import pytest

from lading.cli.main import main
from lading.gateway.keys import KeyRing


def test_a_key_is_made_and_its_line_knows_it(capsys):
    assert main(["api-key", "alice"]) == 0
    out, err = capsys.readouterr()
    key = err.strip()
    assert len(key) > 40
    assert key not in out
    assert KeyRing.parse(out).owner_of(key.encode()) == "alice"
    main(["api-key", "alice"])
    assert capsys.readouterr().err.strip() != key


def test_a_key_that_exists_is_read_and_not_shown(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("an-old-key-of-27-characters\n"))
    assert main(["api-key", "bob", "--stdin"]) == 0
    out, err = capsys.readouterr()
    assert (err, "an-old-key" in out) == ("", False)
    assert KeyRing.parse(out).owner_of(b"an-old-key-of-27-characters") == "bob"


@pytest.mark.parametrize(("name", "key"), [("a:b", "x" * 30), ("alice", "short"), ("alice", ""), ("alice", "x " * 20)])
def test_what_is_no_name_or_no_key_is_refused(name, key, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(key))
    assert main(["api-key", name, "--stdin"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "try:" in err
