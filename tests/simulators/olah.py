"""A real Olah, the caching proxy for Hugging Face, in front of the hub simulator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.simulators.programs import required, serving


@contextmanager
def olah(upstream: str, directory: Path, *, offline: bool = False) -> Iterator[str]:
    """The HF_ENDPOINT of an Olah that asks the hub at ``upstream`` and keeps what it got in ``directory``.

    ``offline``: it serves what it has there and asks nobody. Otherwise it asks the hub about every file before it sends
    it, even where it has its bytes.
    """
    program = required("olah-cli")
    directory.mkdir(exist_ok=True)
    configuration = directory / "olah.toml"
    hub = urlsplit(upstream)

    def command(port: int) -> list[str | Path]:
        basic: dict[str, str | int] = {
            "host": "127.0.0.1",
            "port": port,
            "repos-path": str(directory / "repos"),
            "hf-scheme": hub.scheme,
            "hf-netloc": hub.netloc,
        }
        lines = ["[basic]", *_toml(basic), "[accessibility]", *_toml({"offline": offline})]
        configuration.write_text("\n".join([*lines, ""]))
        return [program, "--config", configuration, "--log-path", directory / "logs"]

    with serving(command, directory) as port:
        yield f"http://127.0.0.1:{port}"


def _toml(table: dict[str, str | int]) -> list[str]:
    return [f"{name} = {json.dumps(value)}" for name, value in table.items()]
