"""What no client can beat here: ``python -m benchmarks.limit copy URL DIRECTORY NAME=BYTES ...``, ``… hash FILE ...``.

``copy`` moves the bytes from sockets to files through four connections and does nothing else. ``hash`` computes the
SHA-256 of files on one core.
"""

from __future__ import annotations

import hashlib
import os
import queue
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

_CONNECTIONS = 4
_PART_BYTES = 32 << 20
_READ_BYTES = 1 << 20

Part = tuple[str, int, int, int]
"""A path at the server, a descriptor to write to, the first byte and the one after the last."""


def copy(url: str, directory: str, *files: str) -> None:
    """Fetch the files of a plain HTTP server that knows byte ranges."""
    where, parts = urlsplit(url), queue.SimpleQueue[Part]()
    for name, size_text in (each.split("=") for each in files):
        descriptor = os.open(Path(directory) / name, os.O_WRONLY | os.O_CREAT, 0o644)
        for start in range(0, int(size_text), _PART_BYTES):
            parts.put((f"{where.path}/{name}", descriptor, start, min(start + _PART_BYTES, int(size_text))))
    errors: list[BaseException] = []
    threads = [threading.Thread(target=_copy, args=(where.netloc, parts, errors)) for _ in range(_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _copy(server: str, parts: queue.SimpleQueue[Part], errors: list[BaseException]) -> None:
    host, port = server.split(":")
    buffer = memoryview(bytearray(_READ_BYTES))
    try:
        with suppress(queue.Empty), socket.create_connection((host, int(port))) as connection:
            while True:
                _fetch(connection, server, parts.get_nowait(), buffer)
    except BaseException as error:  # noqa: BLE001  # raised in the main thread
        errors.append(error)


def _fetch(connection: socket.socket, server: str, part: Part, buffer: memoryview) -> None:
    path, descriptor, position, end = part
    request = f"GET {path} HTTP/1.1\r\nHost: {server}\r\nRange: bytes={position}-{end - 1}\r\n\r\n"
    connection.sendall(request.encode())
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(4096)
        assert piece, "the server hung up"
        head += piece
    assert head.startswith(b"HTTP/1.1 206"), head[:100]
    position += os.pwrite(descriptor, head.partition(b"\r\n\r\n")[2], position)
    while position < end:
        count = connection.recv_into(buffer[: end - position])
        assert count, "the server hung up"
        position += os.pwrite(descriptor, buffer[:count], position)


def hash_files(*files: str) -> None:
    """The SHA-256 of each."""
    buffer = memoryview(bytearray(_READ_BYTES))
    for name in files:
        hasher = hashlib.sha256()
        with Path(name).open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                hasher.update(buffer[:count])


def main(task: str, *arguments: str) -> None:
    """One of the two."""
    if task == "copy":
        copy(*arguments)
    else:
        hash_files(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
