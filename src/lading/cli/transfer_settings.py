"""How files are fetched, by the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lading.settings import Settings
    from lading.transfer import TransferOptions

_CONNECTIONS = 4
_MOST_CONNECTIONS = 8


def transfer_options(settings: Settings) -> TransferOptions:
    """What a transfer is to keep to; with as many connections as help where the settings say nothing."""
    from lading.transfer import TransferOptions

    most = settings.connections or _MOST_CONNECTIONS
    return TransferOptions(
        connections=min(_CONNECTIONS, most),
        most_connections=most,
        part_bytes=settings.part_bytes,
        max_bytes_per_second=settings.max_bandwidth,
    )
