"""The life of an engine process as a table: which state may follow which.

One task owns the state (:mod:`lading.supervisor.supervisor`); readiness, metrics and the exit code are read off it.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where the child stands."""

    IDLE = "idle"  # not started yet
    STARTING = "starting"  # the process runs, the model does not answer
    READY = "ready"  # the model answered
    STOPPING = "stopping"  # TERM was sent because we were asked to stop
    KILLING = "killing"  # the grace ended; KILL was sent
    FAILED = "failed"  # it ended by itself
    STOPPED = "stopped"  # it ended because we were asked to


MOVES: dict[State, frozenset[State]] = {
    State.IDLE: frozenset({State.STARTING, State.STOPPED, State.FAILED}),
    State.STARTING: frozenset({State.READY, State.STOPPING, State.FAILED}),
    State.READY: frozenset({State.STOPPING, State.FAILED}),
    State.STOPPING: frozenset({State.KILLING, State.STOPPED}),
    State.KILLING: frozenset({State.STOPPED}),
    State.FAILED: frozenset(),
    State.STOPPED: frozenset(),
}

ENDED = frozenset(state for state, following in MOVES.items() if not following)


def move(current: State, following: State) -> State:
    """``following``, when the table allows it from ``current``; ValueError otherwise."""
    if following not in MOVES[current]:
        raise ValueError(f"an engine cannot go from {current} to {following}")
    return following
