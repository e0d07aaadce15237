"""A hub with one small model, for every test here."""

from collections.abc import Iterator

import pytest

from tests.simulators.hub import HubSimulator


@pytest.fixture
def hub() -> Iterator[HubSimulator]:
    with HubSimulator() as simulator:
        yield simulator
