"""Exit codes of a guarded child, whatever signals it gets meanwhile."""

from __future__ import annotations

import asyncio
import sys

from lading.supervisor.process import GuardedProcess

ENDS_BY_ITSELF = (
    sys.executable, "-I", "-S", "-c", "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); sys.exit(7)",
)  # fmt: skip


async def told_to_stop_at_its_end() -> int:
    """The exit code of a child that is told to stop again and again, around the moment of its own end."""
    process = await GuardedProcess.start(ENDS_BY_ITSELF, {}, lambda _: None)
    waiting = asyncio.create_task(process.wait())
    await asyncio.sleep(0.02)
    while not waiting.done():
        for _ in range(50):
            process.terminate()
        await asyncio.sleep(0)
    return await waiting


async def many() -> set[int]:
    rounds = [await asyncio.gather(*(told_to_stop_at_its_end() for _ in range(4))) for _ in range(8)]
    return {code for each in rounds for code in each}


def test_signals_around_the_end_do_not_cost_the_exit_code() -> None:
    assert asyncio.run(many()) <= {7, 143}, "255 is what asyncio makes of a code that somebody else took"
