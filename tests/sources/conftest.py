"""A hub with one small model, and a storage cluster, for every test here."""

from collections.abc import Iterator

import pytest

from tests.simulators import ceph
from tests.simulators.hub import HubSimulator


@pytest.fixture
def hub() -> Iterator[HubSimulator]:
    with HubSimulator() as simulator:
        yield simulator


@pytest.fixture(scope="session")  # not "module": a worker that steals from a module twice would start two
def gateway() -> Iterator[ceph.Ceph]:
    if why := ceph.lack():
        pytest.skip(why)
    with ceph.cluster() as running:
        yield running
