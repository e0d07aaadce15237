"""Digests, sizes, secrets, settings, errors: the small values that everything stands on."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading import errors
from lading.digest import Digest, new_hasher
from lading.errors import LadingError, Stopped, UsageError
from lading.secret import Secret
from lading.settings import Settings, field_names
from lading.settings_table import SETTINGS
from lading.units import format_bytes, format_seconds, parse_bytes, parse_seconds


@given(st.binary(max_size=200), st.sampled_from(["sha256", "gitsha1", "md5"]))
def test_a_digest_is_written_and_read_back(data, algorithm):
    digest = Digest.of(data, algorithm)
    assert Digest.parse(str(digest)) == digest


def test_gitsha1_is_what_git_computes(tmp_path):
    (tmp_path / "file").write_bytes(b"hello\n")
    expected = subprocess.run(["git", "hash-object", "file"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Digest.of(b"hello\n", "gitsha1").hex == expected.stdout.strip()


def test_crc32c_is_that_of_the_standard():
    """The vector is that of RFC 3720, B.4: 32 bytes of ones."""
    pytest.importorskip("google_crc32c", reason='google-crc32c is not installed: "lading[gcs]"')
    assert Digest.of(b"\xff" * 32, "crc32c").hex == "62a8ab43"
    assert str(Digest.of(b"123456789", "crc32c")) == "crc32c:e3069283" == str(Digest.parse("crc32c:e3069283"))
    hasher = new_hasher("crc32c", 9)
    for piece in (b"1234", bytearray(b"56"), memoryview(bytearray(b"_789"))[1:]):
        hasher.update(piece)
    assert hasher.hexdigest() == "e3069283"


def test_crc32c_without_its_library_is_one_sentence():
    program = "import sys; sys.modules['google_crc32c'] = None\nfrom lading.digest import new_hasher\nfrom lading.errors import UsageError\ntry: new_hasher('crc32c', 0)\nexcept UsageError as error: print(error.remedy)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == 'pip install "lading[gcs]"\n'


def test_sha256_is_hashlibs():
    assert Digest.of(b"x").hex == hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize(
    "text", ["", "sha256", "sha256:", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "crc:00", "x" * 64]
)
def test_what_is_no_digest_is_refused(text):
    with pytest.raises(ValueError, match="digest"):
        Digest.parse(text)


def test_an_unknown_algorithm_has_no_hasher():
    with pytest.raises(ValueError, match="unknown"):
        new_hasher("whirlpool", 0)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (6_800_000, "6.48 MiB"),
        (16060556376, "15.0 GiB"),
        (1 << 41, "2.00 TiB"),
        (2048, "2.00 KiB"),
    ],
)
def test_sizes_are_written_in_binary_units(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("text", "size"), [("6", 6), ("4k", 4000), ("4Ki", 4096), ("1.5 GiB", 3 << 29), ("200MB", 200_000_000)]
)
def test_sizes_are_read(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "k", "-1", "1 parsec"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (42.2, "42 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_times_are_written_for_people(seconds, text):
    assert format_seconds(seconds) == text


def test_a_secret_never_shows_itself():
    secret = Secret("hf_canary")
    assert "canary" not in f"{secret} {secret!r} {[secret]} { ({'token': secret}) }"
    assert secret.reveal() == "hf_canary"
    assert secret
    assert not Secret("")


def test_the_settings_are_exactly_the_rows_of_the_table():
    assert field_names() == tuple(setting.field for setting in SETTINGS)


def test_an_empty_environment_gives_the_documented_defaults():
    settings = Settings.from_env({})
    assert (settings.server_port, settings.log_level, settings.offline) == (8000, "INFO", False)
    assert settings.hf_endpoint == "https://huggingface.co"
    assert settings.cache_path is None


def test_an_empty_value_means_unset():
    assert Settings.from_env({"NIM_SERVER_PORT": "", "NIM_MODEL_PATH": "  "}).model_path is None


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("NIM_SERVER_PORT", "9000", "server_port", 9000),
        ("NIM_LOG_LEVEL", "debug", "log_level", "DEBUG"),
        ("NIM_JSONL_LOGGING", "1", "jsonl_logging", True),
        ("NIM_JSONL_LOGGING", "off", "jsonl_logging", False),
        ("HF_HUB_OFFLINE", "yes", "offline", True),
        ("HF_ENDPOINT", "http://mirror:8090/", "hf_endpoint", "http://mirror:8090"),
        ("HF_TOKEN", "t", "hf_token", Secret("t")),
        ("NIM_CACHE_PATH", "/x", "cache_path", Path("/x")),
        ("HTTPS_PROXY", "http://p:1", "https_proxy", Secret("http://p:1")),
    ],
)
def test_a_variable_is_read(name, text, field, value):
    assert getattr(Settings.from_env({name: text}), field) == value


def test_lower_case_proxy_variables_win():
    settings = Settings.from_env({"HTTPS_PROXY": "http://upper", "https_proxy": "http://lower"})
    assert settings.https_proxy == Secret("http://lower")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("NIM_SERVER_PORT", "eighty"),
        ("NIM_SERVER_PORT", "70000"),
        ("NIM_LOG_LEVEL", "loud"),
        ("NIM_JSONL_LOGGING", "maybe"),
        ("HF_ENDPOINT", "mirror"),
        ("LADING_STOP_SECONDS", "-1"),
        ("LADING_STOP_SECONDS", "nan"),
    ],
)
def test_a_value_that_cannot_be_read_names_variable_value_and_what_is_accepted(name, text):
    with pytest.raises(UsageError) as refusal:
        Settings.from_env({name: text})
    assert name in refusal.value.message
    assert text in refusal.value.message
    assert name in refusal.value.remedy


def test_every_error_has_the_documented_exit_code():
    codes = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, LadingError)
    }
    assert set(codes.values()) == {1, 2, 3, 4, 5, 6, 7}
    documented = (Path(__file__).parents[1] / "docs/reference/exit-codes.md").read_text()
    for code in codes.values():
        assert f"| {code} |" in documented
    assert Stopped(15).exit_code == 143


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("1.5h", 5400), ("30D", 30 * 86400), (" 2 w ", 14 * 86400)]
)
def test_times_that_people_write(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1y", "1d2h"])
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match="not a time"):
        parse_seconds(text)
