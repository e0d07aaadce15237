"""Events as lines: NIM's text form, JSON lines, progress for logs and terminals."""

from __future__ import annotations

import io
import json
import re

import pytest

from lading.cli.log import EventLog
from lading.events import (
    BlobVerified,
    BytesFetched,
    EngineOutput,
    FilesChecked,
    Note,
    OthersProgress,
    Phase,
    PhaseChanged,
    RetryScheduled,
    TransferFinished,
    TransferStarted,
)
from lading.units import MIB


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def logged(*events, clock=None, **options) -> list[str]:
    stream = io.StringIO()
    log = EventLog(stream=stream, clock=clock or Clock(), **options)
    for event in events:
        log(event)
    log.close()
    return stream.getvalue().splitlines()


def test_who_waits_says_how_far_the_other_is():
    clock = Clock()
    stream = io.StringIO()
    log = EventLog(stream=stream, clock=clock)
    log(OthersProgress(110 * MIB, 10 * MIB))
    clock.now = 10.0
    log(OthersProgress(110 * MIB, 60 * MIB))
    log(TransferStarted(2, 110 * MIB, 110 * MIB))
    first, second = stream.getvalue().splitlines()
    assert first.endswith("] another process fetched 50.0 MiB of 100.0 MiB (50%), 5.00 MiB/s, 10 s left")
    assert second.endswith("110.0 MiB are here, 0 B to fetch")


def test_a_store_says_how_much_of_it_is_checked():
    clock = Clock()
    stream = io.StringIO()
    log = EventLog(stream=stream, clock=clock)
    log(FilesChecked(100 * MIB, 0))
    clock.now = 10.0
    log(FilesChecked(100 * MIB, 50 * MIB))
    log(FilesChecked(100 * MIB, 100 * MIB))
    log(FilesChecked(10 * MIB, 0))
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("] checked 50.0 MiB of 100.0 MiB (50%), 5.00 MiB/s, 10 s left")


NIM_LINE = re.compile(r"(DEBUG|INFO|WARNING|ERROR) \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} test_log\.py:\d+\] (.*)")


def test_a_text_line_has_nims_form_and_names_the_code_that_reported():
    (line,) = logged(Note("hello"))
    assert NIM_LINE.fullmatch(line)[2] == "hello"


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (PhaseChanged(Phase.LOADING), "loading"),
        (PhaseChanged(Phase.READY, "the model answers"), "ready: the model answers"),
        (RetryScheduled("a.bin", "reset", 1.5), "a.bin: reset; again in 1.5 s"),
        (TransferFinished(2 * MIB, 1), "2.00 MiB fetched in 1.0 s (2.00 MiB/s)"),
        (TransferFinished(0, 0), "0 B fetched in 0.0 s"),
        (TransferStarted(3, 10 * MIB, 4 * MIB), "3 files, 10.0 MiB: 4.00 MiB are here, 6.00 MiB to fetch"),
    ],
)
def test_events_become_sentences(event, text):
    assert NIM_LINE.fullmatch(logged(event)[0])[2] == text


def test_lines_below_the_level_are_not_written():
    events = (Note("quiet", "DEBUG"), Note("loud", "ERROR"), BlobVerified("a", 1))
    assert [NIM_LINE.fullmatch(line)[2] for line in logged(*events)] == ["loud"]
    assert len(logged(*events, level="DEBUG")) == 3


@pytest.mark.parametrize(
    ("line", "shown_at"),
    [
        ("(EngineCore pid=7) ERROR 11-20 [x.py:1] bad", "ERROR"),
        ("INFO 11-20 fine", "INFO"),
        ("Loading shards:  56%|#####  | 5/9", "DEBUG"),
        ("Loading safetensors checkpoint shards:  56% Completed | 5/9 [00:13<00:11,  2.87s/it]", "DEBUG"),
        ("no level at all", "INFO"),
    ],
)
def test_an_engines_line_keeps_its_own_level(line, shown_at):
    levels = ["DEBUG", "INFO", "ERROR"]
    for level in levels:
        assert (logged(EngineOutput(line), level=level) == [line]) is (levels.index(level) <= levels.index(shown_at))


@pytest.mark.parametrize(
    "line",
    [
        "non-default args: {'api_key': ['canary'], 'port': 1}",
        'args: {"api_key": "canary"}',
        "--api-key canary",
        "api_key=canary,",
        "--api-key=canary",
    ],
)
def test_an_api_key_that_an_engine_prints_is_hidden(line):
    (shown,) = logged(EngineOutput(line.replace("--api-key canary", "api-key: canary")))
    assert "canary" not in shown
    assert "***" in shown


def test_json_lines_begin_with_nims_five_fields():
    first, second = (json.loads(line) for line in logged(Note("ü", "WARNING"), EngineOutput("INFO x"), jsonl=True))
    assert list(first) == ["level", "time", "file_name", "line_number", "message", "source"]
    assert (first["level"], first["message"], first["source"]) == ("WARNING", "ü", "lading")
    assert (second["message"], second["source"]) == ("INFO x", "engine")


def test_progress_in_a_log_is_a_line_each_five_seconds_or_five_percent_whichever_is_later():
    clock, stream = Clock(), io.StringIO()
    log = EventLog(stream=stream, clock=clock)
    log(TransferStarted(1, 100 * MIB, 0))
    for _ in range(100):
        clock.now += 1
        log(BytesFetched("a", MIB))
    log(TransferFinished(100 * MIB, 100))
    progress = [line for line in stream.getvalue().splitlines() if "] fetched " in line]
    assert 18 <= len(progress) <= 20
    assert "of 100.0 MiB (5%), 1.00 MiB/s, 1 min 35 s left" in progress[0]


def test_a_fast_download_says_nothing_in_between():
    events = (TransferStarted(1, MIB, 0), *(BytesFetched("a", MIB // 4) for _ in range(4)), TransferFinished(MIB, 0.1))
    assert len(logged(*events)) == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end():
    stream = Terminal()
    log = EventLog(stream=stream)
    log(TransferStarted(1, 4 * MIB, 0))
    log(BytesFetched("a", 2 * MIB))
    log(BytesFetched("a", -MIB))
    log(TransferFinished(4 * MIB, 1))
    assert "fetching" in stream.getvalue()
    assert stream.getvalue().endswith("(4.00 MiB/s)\n")
