"""The servers that the bench reads from, each a process of its own on loopback that ends with its ``with`` block.

nginx serves the directory as files and, because it answers a listing from a file and does not look at signatures, as
the reading half of an S3 server: one that is faster than any client, which no real S3 server here is. It tells each
file's SHA-256 as servers do that know it (``Repr-Digest``, and the object metadata ``sha256``).
"""

from __future__ import annotations

import os
import pwd
import re
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from botocore.session import Session

from benchmarks import peers
from benchmarks.payload import LOCATION, Payload, PayloadFile

KEY, SECRET = "AKIATEST", "wJalrXUtnFEMI+bPxRfiCY/EXAMPLE=KEY"
AUTHORITY = Path(__file__).parents[1] / "tests/sources/tls/ca.pem"
_CERTIFICATE = AUTHORITY.with_name("server.pem")
_SO_MAX_PACING_RATE = 47  # Linux; Python 3.11's socket module has no name for it
_START_SECONDS = 60.0

_NGINX = """
daemon off;
user {user};
worker_processes auto;
pid {directory}/pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  keepalive_requests 1000000;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  default_type application/octet-stream;
  {tls}
  server {{
    listen 127.0.0.1:{port} {ssl};
    root {root};
    location = /{bucket} {{ alias {directory}/list.xml; default_type application/xml; }}
    location = /{bucket}/ {{ alias {directory}/list.xml; default_type application/xml; }}
    {files}
  }}
}}
"""
_TLS = "ssl_certificate {pem}; ssl_certificate_key {pem}; ssl_protocols TLSv1.3; ssl_session_cache shared:bench:1m;"
_FILE = """
    location = /{location}/{name} {{
      add_header Repr-Digest "sha-256=:{base64}:"; add_header x-amz-meta-sha256 {hex};
    }}"""
_LISTING = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{bucket}</Name><Prefix>{prefix}/</Prefix>\
<KeyCount>{count}</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>
"""
_CONTENTS = (
    "<Contents><Key>{key}</Key><LastModified>{time}</LastModified><ETag>&quot;{etag}&quot;</ETag>"
    "<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


@contextmanager
def nginx(
    payload: Payload, directory: Path, *, tls: bool = False, bytes_per_second: int | None = None
) -> Iterator[str]:
    """The endpoint of nginx with as many workers as cores; what is its own lies in ``directory``.

    ``bytes_per_second`` is the most that each connection gets: the kernel paces it, so that waiting costs nobody CPU.
    """
    program = peers.find("nginx")
    assert program, "nginx is not installed"
    directory.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if bytes_per_second:
            listener.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, bytes_per_second)
        listener.setblocking(False)
        port: int = listener.getsockname()[1]
        (directory / "list.xml").write_text(_listing(payload))
        (directory / "nginx.conf").write_text(_configuration(payload, directory, port, tls=tls))
        descriptor = listener.fileno()
        with (directory / "log").open("w+") as log:
            process = subprocess.Popen(
                [program, "-p", str(directory), "-c", str(directory / "nginx.conf")],
                env={"NGINX": f"{descriptor};"},  # how nginx takes over a socket that listens already
                pass_fds=[descriptor],
                stdout=log,
                stderr=log,
            )
            with _stopped(process):
                (directory / "list.xml").chmod(0o644)
                scheme = "https" if tls else "http"
                yield f"{scheme}://127.0.0.1:{port}"


@contextmanager
def rclone(payload: Payload, directory: Path) -> Iterator[str]:
    """The endpoint of ``rclone serve s3``, a real S3 server that checks signatures.

    The objects have their SHA-256 in their metadata: rclone's etags are MD5, which no large object of AWS has.
    """
    directory.mkdir()
    program = str(Path(sys.executable).with_name("rclone"))
    options = ["--config", os.devnull, "--addr", "127.0.0.1:0", "--vfs-cache-mode", "off", "--auth-key"]
    with (directory / "log").open("w+") as log:
        process = subprocess.Popen([program, "serve", "s3", *options, f"{KEY},{SECRET}", str(payload.root)], stderr=log)
        with _stopped(process):
            endpoint = _announced(process, log, re.compile(r"\[(http://[0-9.:]+)/\]"))
            _tell_digests(endpoint, payload)
            yield endpoint


def _tell_digests(endpoint: str, payload: Payload) -> None:
    """Put each object's SHA-256 into its metadata, by a copy onto itself, which moves no bytes."""
    bucket, _, prefix = LOCATION.partition("/")
    client: Any = Session().create_client(
        "s3", region_name="us-east-1", endpoint_url=endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET
    )
    for file in payload.files:
        key = f"{prefix}/{file.name}"
        client.copy_object(
            Bucket=bucket,
            Key=key,
            CopySource={"Bucket": bucket, "Key": key},
            Metadata={"sha256": file.sha256.hex()},
            MetadataDirective="REPLACE",
        )


@contextmanager
def hub(payload: Payload, directory: Path) -> Iterator[str]:
    """The endpoint of the hub simulator."""
    directory.mkdir()
    with (directory / "log").open("w+") as log:
        command = [sys.executable, "-m", "tests.simulators.hub", str(payload.root)]
        process = subprocess.Popen(command, stdout=log)
        with _stopped(process):
            yield _announced(process, log, re.compile(r"(http://[0-9.:]+)\n"))


@contextmanager
def _stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _announced(process: subprocess.Popen[bytes], log: IO[str], pattern: re.Pattern[str]) -> str:
    """What the server says of itself when it is ready."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        log.seek(0)
        said = log.read()
        if found := pattern.search(said):
            return found[1]
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{process.args!r} does not start:\n{said}")
        time.sleep(0.02)


def _configuration(payload: Payload, directory: Path, port: int, *, tls: bool) -> str:
    files = (
        _FILE.format(location=LOCATION, name=each.name, base64=b64encode(each.sha256).decode(), hex=each.sha256.hex())
        for each in payload.files
    )
    return _NGINX.format(
        user=pwd.getpwuid(os.geteuid()).pw_name,
        directory=directory,
        port=port,
        root=payload.root,
        bucket=LOCATION.partition("/")[0],
        ssl="ssl" if tls else "",
        tls=_TLS.format(pem=_CERTIFICATE) if tls else "",
        files="".join(files),
    )


def _listing(payload: Payload) -> str:
    bucket, _, prefix = LOCATION.partition("/")
    contents = "".join(_contents(f"{prefix}/{each.name}", each) for each in payload.files)
    return _LISTING.format(bucket=bucket, prefix=prefix, count=len(payload.files), contents=contents)


def _contents(key: str, file: PayloadFile) -> str:
    changed = datetime.fromtimestamp(file.modified, UTC)
    etag = f"{file.modified:x}-{file.size_bytes:x}"  # nginx's own
    return _CONTENTS.format(key=key, time=f"{changed:%Y-%m-%dT%H:%M:%S.000Z}", etag=etag, size=file.size_bytes)
