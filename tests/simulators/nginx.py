"""A real nginx on a directory: the plain web server that most mirrors are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.simulators.programs import required, serving

_CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/pid;
error_log stderr;
events {{ }}
http {{
  access_log {directory}/access.log;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  default_type application/octet-stream;
  server {{
    listen 127.0.0.1:{port};
    root {root};
  }}
}}
"""


@contextmanager
def nginx(root: Path, directory: Path) -> Iterator[str]:
    """The endpoint of a server of the files below ``root``; what is its own lies in ``directory``."""
    program = required("nginx")
    directory.mkdir(exist_ok=True)

    def command(port: int) -> list[str | Path]:
        configuration = directory / "nginx.conf"
        configuration.write_text(_CONFIGURATION.format(directory=directory, root=root, port=port))
        return [program, "-p", directory, "-c", configuration]

    with serving(command, directory) as port:
        yield f"http://127.0.0.1:{port}"
