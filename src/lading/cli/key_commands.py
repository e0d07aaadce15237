"""``lading api-key``: a key for a client, and the line by which the gateway knows it."""

from __future__ import annotations

import sys


def api_key(name: str, *, from_input: bool) -> int:
    """Print the line for the file of keys; a key that is made here is shown once, on standard error."""
    from lading.gateway.keys import line_for, new_key

    key = sys.stdin.readline().strip() if from_input else new_key()
    line = line_for(name, key)
    if not from_input:
        sys.stderr.write(f"{key}\n")
    sys.stdout.write(f"{line}\n")
    return 0
