"""Fetching a model, verified, beside programs that fetch it and verify nothing: one run, one table for each server.

The figures at the end are ratios within the same run; ``docs/reference/benchmarks.md`` says what each means.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import peers, servers
from benchmarks.measure import Rounds, Run, Sample, compare, cpu, ratio, sample, wall
from benchmarks.payload import LOCATION, Payload, write_payload

_BUCKET, _, _PREFIX = LOCATION.partition("/")
_HERE = Path(__file__).parent
_PACED_BYTES = 40_000_000  # per second and connection, of the link that is the limit
_MARGIN_BYTES = 3 << 30  # of memory that must be left where files lie in memory, of disk otherwise
_LEAST_UNVERIFIED = 2

HTTP, S3, UNVERIFIED = "lading http", "lading s3", "lading http, no SHA-256"
COPY, HASH = "raw copy", "SHA-256, one core"
_UNVERIFIED_PEERS = ("curl", "aria2", "s5cmd", "aws")


Server = Callable[[Path], AbstractContextManager[Mapping[str, Run]]]
"""Serves from its start to its end; the rivals that fetch from it. The path is where its own files may lie."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured, and where the files lie: None for memory where it has room, else the temporary directory.

    ``only`` names the servers to measure; empty for all.
    """

    shards: int = 4
    shard_bytes: int = 1 << 30
    repetitions: int = 3
    directory: Path | None = None
    only: frozenset[str] = frozenset()

    @property
    def needed_bytes(self) -> int:
        """The model, and a copy of it."""
        return 2 * self.shards * self.shard_bytes + _MARGIN_BYTES


@dataclass(frozen=True, slots=True)
class Client:
    """Starts programs that fetch the payload into a fresh directory below ``scratch``, which is empty afterwards."""

    payload: Payload
    scratch: Path
    environ: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def on(cls, payload: Payload, scratch: Path) -> Client:
        """With an environment that has keys for S3, no settings of this machine's user, and no proxy."""
        environ = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(scratch / "home"),
            "HF_HOME": str(scratch / "home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "AWS_ACCESS_KEY_ID": servers.KEY,
            "AWS_SECRET_ACCESS_KEY": servers.SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "SSL_CERT_FILE": str(servers.AUTHORITY),
            "AWS_CA_BUNDLE": str(servers.AUTHORITY),
        }
        return cls(payload, scratch, environ)

    def with_setting(self, name: str, value: str) -> Client:
        """With one more variable in the environment."""
        return replace(self, environ={**self.environ, name: value})

    def run(self, argv: Callable[[Path], Sequence[str]]) -> Run:
        """A run of ``argv`` of the directory to fill; a run that brought fewer bytes than the payload ends it all."""

        def measured() -> Sample:
            with tempfile.TemporaryDirectory(dir=self.scratch) as name:
                _claim_memory(Path(name), self.payload.size_bytes)
                found = sample(argv(Path(name)), self.environ)
                _check_filled(Path(name), self.payload.size_bytes, argv)
            return found

        return measured


@dataclass(frozen=True, slots=True)
class Bench:
    """What was measured so far, by the name of the server."""

    payload: Payload
    scratch: Path
    scale: Scale
    results: dict[str, Rounds] = field(default_factory=dict)

    @property
    def client(self) -> Client:
        """The starter of programs."""
        return Client.on(self.payload, self.scratch)

    def measure(self, name: str, server: Server, repetitions: int | None = None) -> None:
        """Measure the rivals at one server and print their table."""
        if self.scale.only and name not in self.scale.only:
            return
        with server(self.scratch / name.replace(" ", "-")) as rivals:
            self.results[name] = compare(rivals, repetitions or self.scale.repetitions)
        _show(name, self.results[name], self.payload.size_bytes, self.limit_seconds)

    @property
    def limit_seconds(self) -> float | None:
        """max(raw copy, SHA-256), of medians; None where they were not measured."""
        plain = self.results.get("plain", {})
        found = [Sample.typical(plain[each]).wall_seconds for each in (COPY, HASH) if each in plain]
        return max(found, default=None)


def main(scale: Scale) -> None:
    """All servers, then the figures: one line of JSON, the last that is printed."""
    peers.install()
    for each in peers.lacking():
        print(f"not measured, because it is not installed: {each}")
    with _directory(scale) as directory:
        print(f"writing {scale.shards} shards of {scale.shard_bytes >> 20} MiB into {directory.parent}", flush=True)
        payload = write_payload(directory / "payload", scale.shards, scale.shard_bytes)
        (directory / "runs/home").mkdir(parents=True)
        bench = Bench(payload, directory / "runs", scale)
        if peers.find("nginx"):
            bench.measure("plain", lambda own: _nginx_rivals(bench.client, own, tls=False))
            bench.measure("TLS", lambda own: _nginx_rivals(bench.client, own, tls=True))
            bench.measure("throttled", lambda own: _throttled_rivals(bench.client, own))
        bench.measure("rclone S3", lambda own: _rclone_rivals(bench.client, own), min(2, scale.repetitions))
        bench.measure("hub", lambda own: _hub_rivals(bench.client, own))
        warm = _warm_check(directory)
    print(f"\ncheck of 500 files, 100 GiB, that are here already: {warm}")
    print(f"load at the end (1, 5, 15 minutes): {', '.join(f'{each:.1f}' for each in os.getloadavg())}\n")
    print(json.dumps(figures(bench.results)), flush=True)


def figures(results: Mapping[str, Rounds]) -> dict[str, float | None]:
    """The six figures; None where what they compare was not measured."""
    plain, throttled, hub = (results.get(each, {}) for each in ("plain", "throttled", "hub"))
    beside_fastest = [found for rounds in results.values() if (found := worst_beside_fastest(rounds)) is not None]
    ours = [
        each for rounds in results.values() for name in rounds if name.startswith("lading") for each in rounds[name]
    ]
    return {
        "verified_vs_fastest_unverified": max(beside_fastest, default=None),
        "vs_hf_cli": _ratio(hub, "hf", "lading hub", wall),
        "cpu_vs_boto3": _ratio(plain, S3, "boto3", cpu),
        "verify_cost_link_limited": _cost(throttled),
        "verify_cost_saturated": _cost(plain),
        "peak_rss_mb": round(max(each.peak_bytes for each in ours) / 1e6, 1) if ours else None,
    }


def worst_beside_fastest(rounds: Rounds) -> float | None:
    """The wall time of Lading over that of the fastest peer that verifies nothing, of the worse of its sources.

    None where so few peers ran that the fastest of them says little.
    """
    fastest = fastest_unverified(rounds)
    mine = [name for name in (HTTP, S3) if name in rounds]
    if fastest is None or not mine:
        return None
    return max(round(ratio(rounds, name, fastest, wall), 3) for name in mine)


def fastest_unverified(rounds: Rounds) -> str | None:
    """The peer without verification whose median is the shortest, None where there are too few to tell."""
    found = [name for name in _UNVERIFIED_PEERS if name in rounds]
    if len(found) < _LEAST_UNVERIFIED:
        return None
    return min(found, key=lambda name: Sample.typical(rounds[name]).wall_seconds)


def _ratio(rounds: Rounds, ours: str, other: str, figure: Callable[[Sample], float]) -> float | None:
    return round(ratio(rounds, ours, other, figure), 3) if {ours, other} <= rounds.keys() else None


def _cost(rounds: Rounds) -> float | None:
    """The share of time that SHA-256 adds."""
    found = _ratio(rounds, HTTP, UNVERIFIED, wall)
    return None if found is None else round(found - 1, 3)


# The rivals at each server.


@contextmanager
def _nginx_rivals(client: Client, own: Path, *, tls: bool) -> Iterator[Mapping[str, Run]]:
    """Everybody, from files over HTTP or from what looks like a bucket; on plain HTTP this machine's limits too."""
    with servers.nginx(client.payload, own, tls=tls) as endpoint:
        rivals = {HTTP: _lading_http(client, endpoint), S3: _lading_s3(client, endpoint)}
        rivals |= _http_peers(client, endpoint) | _s3_peers(client, endpoint)
        if not tls:
            rivals |= {UNVERIFIED: _lading_http(client, endpoint, "--unverified")} | _limits(client, endpoint)
        yield rivals


@contextmanager
def _throttled_rivals(client: Client, own: Path) -> Iterator[Mapping[str, Run]]:
    """Lading with and without SHA-256 where the link is the limit."""
    with servers.nginx(client.payload, own, bytes_per_second=_PACED_BYTES) as endpoint:
        yield {HTTP: _lading_http(client, endpoint), UNVERIFIED: _lading_http(client, endpoint, "--unverified")}


@contextmanager
def _rclone_rivals(client: Client, own: Path) -> Iterator[Mapping[str, Run]]:
    """Clients of S3 at a real server, which is slower than any of them."""
    with servers.rclone(client.payload, own) as endpoint:
        yield {S3: _lading_s3(client, endpoint), **_s3_peers(client, endpoint)}


@contextmanager
def _hub_rivals(client: Client, own: Path) -> Iterator[Mapping[str, Run]]:
    """Clients of the Hugging Face hub."""
    with servers.hub(client.payload, own) as endpoint:
        client = client.with_setting("HF_ENDPOINT", endpoint)
        rivals = {"lading hub": client.run(lambda to: _lading(f"hf://{LOCATION}", to))}
        if hf := peers.find("hf"):
            rivals["hf"] = client.run(lambda to: [hf, "download", LOCATION, "--cache-dir", str(to)])
        yield rivals


def _lading(uri: str, to: Path, *options: str, files: Sequence[str] = ()) -> list[str]:
    return [sys.executable, "-m", "benchmarks.fetch", *options, uri, str(to), *files]


def _lading_http(client: Client, endpoint: str, *options: str) -> Run:
    names = [each.name for each in client.payload.files]
    return client.run(lambda to: _lading(f"{endpoint}/{LOCATION}", to, *options, files=names))


def _lading_s3(client: Client, endpoint: str) -> Run:
    client = client.with_setting("AWS_ENDPOINT_URL", endpoint)
    return client.run(lambda to: _lading(f"s3://{LOCATION}", to))


def _http_peers(client: Client, endpoint: str) -> dict[str, Run]:
    """All files at once with curl; four at once over four connections each with aria2, which is its fastest here."""
    urls = [f"{endpoint}/{LOCATION}/{each.name}" for each in client.payload.files]
    listed = client.scratch / "urls"
    listed.write_text("\n".join(urls))
    authority, rivals = str(servers.AUTHORITY), {}
    if curl := peers.find("curl"):
        silent = [curl, "--silent", "--show-error", "--fail", "--parallel", "--cacert", authority]
        rivals["curl"] = client.run(lambda to: [*silent, "--remote-name-all", "--output-dir", str(to), *urls])
    if aria2 := peers.find("aria2c"):
        quiet = [aria2, "--quiet", "-j4", "-x4", "-s4", "--file-allocation=none", f"--ca-certificate={authority}"]
        rivals["aria2"] = client.run(lambda to: [*quiet, f"--input-file={listed}", f"--dir={to}"])
    return rivals


def _s3_peers(client: Client, endpoint: str) -> dict[str, Run]:
    """The programs for S3 as they come."""
    place, rivals = f"s3://{LOCATION}", {}
    if s5cmd := peers.find("s5cmd"):
        fetch = [s5cmd, "--endpoint-url", endpoint, "cp", f"{place}/*"]
        rivals["s5cmd"] = client.run(lambda to: [*fetch, f"{to}/"])
    if aws := peers.find("aws"):
        copy = [aws, "--endpoint-url", endpoint, "s3", "cp", "--recursive", "--only-show-errors", place]
        rivals["aws"] = client.run(lambda to: [*copy, str(to)])
    if python := peers.find("python"):
        script = [python, str(_HERE / "boto3_copy.py"), endpoint, _BUCKET, _PREFIX]
        rivals["boto3"] = client.run(lambda to: [*script, str(to)])
    return rivals


def _limits(client: Client, endpoint: str) -> dict[str, Run]:
    limit = [sys.executable, str(_HERE / "limit.py")]
    sizes = [f"{each.name}={each.size_bytes}" for each in client.payload.files]
    paths = [str(client.payload.directory / each.name) for each in client.payload.files]
    return {
        COPY: client.run(lambda to: [*limit, "copy", f"{endpoint}/{LOCATION}", str(to), *sizes]),
        HASH: lambda: sample([*limit, "hash", *paths], client.environ),
    }


# Where the files lie, and what is printed.


@contextmanager
def _directory(scale: Scale) -> Iterator[Path]:
    """A fresh directory with room enough, removed afterwards; ends the program where there is none."""
    parent = scale.directory or _roomy(scale.needed_bytes)
    free = _free_bytes(parent)
    if free < scale.needed_bytes:
        sys.exit(f"{parent} has room for {free >> 20} MiB, {scale.needed_bytes >> 20} are needed: --directory, --quick")
    with tempfile.TemporaryDirectory(prefix="lading-bench-", dir=parent) as name:
        yield Path(name)


def _roomy(needed_bytes: int) -> Path:
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and _free_bytes(memory) >= needed_bytes
    return memory if has_room else Path(tempfile.gettempdir())


def _free_bytes(directory: Path) -> int:
    free = shutil.disk_usage(directory).free
    return min(free, _free_memory_bytes()) if directory.is_relative_to("/dev/shm") else free


def _free_memory_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _claim_memory(directory: Path, size_bytes: int) -> None:
    """Have the machine own the memory that the files will take.

    A virtual machine gives free memory back to its host within seconds, and whoever is the first to use it again waits
    for the host: that would be measured instead of the client.
    """
    if not directory.is_relative_to("/dev/shm"):
        return
    path, zeros = directory / "claim", bytes(1 << 20)
    with path.open("wb", buffering=0) as file:
        for _ in range(0, size_bytes, len(zeros)):
            file.write(zeros)
    path.unlink()


def _check_filled(directory: Path, size_bytes: int, argv: Callable[[Path], Sequence[str]]) -> None:
    found = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    if found < size_bytes:
        sys.exit(f"{' '.join(argv(directory))[:500]} brought {found} of {size_bytes} bytes")


def _show(title: str, rounds: Rounds, size_bytes: int, limit_seconds: float | None) -> None:
    """Medians, and how many times the best peer's and the limit's they are."""
    typical = {name: Sample.typical(samples) for name, samples in rounds.items()}
    rivals = [each for name, each in typical.items() if name in (*_UNVERIFIED_PEERS, "boto3", "hf")]
    gib = size_bytes / (1 << 30)
    head = f"{'wall s':>8}{'MiB/s':>8}{'CPU s/GiB':>11}{'peak MB':>9}"
    print(f"\n{title:<26}{head}{'wall/best':>11}{'CPU/best':>10}{'wall/limit':>12}")
    fastest = min((peer.wall_seconds for peer in rivals), default=None)
    thriftiest = min((peer.cpu_seconds for peer in rivals), default=None)
    for name, each in typical.items():
        figures = f"{each.wall_seconds:8.2f}{1024 * gib / each.wall_seconds:8.0f}{each.cpu_seconds / gib:11.2f}"
        ratios = f"{_times(each.wall_seconds, fastest):>11}{_times(each.cpu_seconds, thriftiest):>10}"
        print(
            f"  {name:<24}{figures}{each.peak_bytes / 1e6:9.0f}{ratios}{_times(each.wall_seconds, limit_seconds):>12}"
        )
    sys.stdout.flush()


def _times(figure: float, other: float | None) -> str:
    return f"{figure / other:.2f}" if other else "-"


def _warm_check(directory: Path) -> str:
    (directory / "warm").mkdir()
    command = [sys.executable, "-m", "benchmarks.warm", str(directory / "warm")]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return ", ".join(f"{name.removesuffix('_ms').replace('_', ' ')} {ms:.1f} ms" for name, ms in found.items())
