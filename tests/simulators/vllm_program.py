"""A stand-in for the ``vllm`` program: found on PATH, takes its command line, answers on its socket, misbehaves on demand.

:func:`install` lays out an environment that Lading's detection reads like a real CPU build. How a start goes is set by the
variable ``STAND_IN`` (JSON): ``start_seconds``, ``crash`` (text to print before ending with ``exit_code``), ``ignore_term``,
``fork`` (leave a child in a session of its own), ``healthy_only`` (health says yes, no token comes), ``no_completions`` (a
model of another kind), ``api_key`` (asked for below ``/v1``), ``pid_file``, ``lines`` (to be printed while it starts),
``refused_adapters`` (names that it cannot load), ``adapter_seconds`` (how long loading and unloading take), ``gate`` (a
path: streams go on after their first event when it is there).
"""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

ARCHITECTURES = ("LlamaForCausalLM", "Qwen3ForCausalLM")


def install(root: Path, version: str = "0.32.0+cpu") -> Path:
    """An environment below ``root`` with this program as ``vllm``; the directory to put on PATH."""
    packages = root / "lib/python3.11/site-packages"
    registry = packages / "vllm/model_executor/models/registry.py"
    registry.parent.mkdir(parents=True)
    models = ", ".join(f'"{name}": ("x", "{name}")' for name in ARCHITECTURES)
    registry.write_text(f"_TEXT_GENERATION_MODELS = {{{models}}}\n")
    (packages / f"vllm-{version}.dist-info").mkdir()
    (packages / f"vllm-{version}.dist-info/METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
    )
    return script_of(root / "bin/vllm", "tests.simulators.vllm_program").parent


def script_of(path: Path, module: str) -> Path:
    """An executable at ``path`` that runs ``module`` of this repository."""
    repository = str(Path(__file__).resolve().parents[2])
    path.parent.mkdir()
    path.write_text(
        f"#!{sys.executable} -S\nimport runpy, sys\nsys.path.insert(0, {repository!r})\n"
        f"runpy.run_module({module!r}, run_name='__main__')\n"
    )
    path.chmod(0o755)
    return path


class Adapters:
    """LoRA adapters as an engine has them, with the words of vLLM 0.32 and SGLang 0.5.23 for what goes wrong."""

    def __init__(self, settings: dict[str, Any], max_rank: int) -> None:
        self.settings = settings
        self.max_rank = max_rank
        self.paths: dict[str, str] = {}

    def fault_of(self, name: str, path: str) -> str:
        """Why the adapter cannot be loaded; "" where it can."""
        if name in self.settings.get("refused_adapters", ()):
            return "Call to add_lora method failed: expected target modules"
        try:
            rank = json.loads((Path(path) / "adapter_config.json").read_bytes())["r"]
            (Path(path) / "adapter_model.safetensors").read_bytes()
        except OSError:
            return f"Loading lora {name} failed: No adapter found for {path}"
        return f"LoRA rank {rank} is greater than max_lora_rank {self.max_rank}." if rank > self.max_rank else ""

    def text_of(self, name: str) -> str:
        """What the model says with the adapter: its weights' first byte, in words."""
        weights = (Path(self.paths[name]) / "adapter_model.safetensors").read_bytes()
        return f"Hello from {name}, {weights[-1]}"


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """HTTP on a Unix socket."""

    daemon_threads = True
    model = ""
    settings: dict[str, Any]
    adapters: Adapters | None = None

    @property
    def healthy_only(self) -> bool:
        return bool(self.settings.get("healthy_only"))


class PortServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """The same on a port."""

    daemon_threads = True
    allow_reuse_address = True
    adapters: Adapters | None = None

    def __init__(
        self, address: tuple[str, int], model: str, settings: dict[str, Any], handler: type[Handler] | None = None
    ) -> None:
        super().__init__(address, handler or Handler)
        self.model = model
        self.settings = settings

    @property
    def healthy_only(self) -> bool:
        return bool(self.settings.get("healthy_only"))


class Handler(BaseHTTPRequestHandler):
    """The few routes that Lading and the tests use."""

    protocol_version = "HTTP/1.1"
    server: Server | PortServer

    def do_GET(self) -> None:
        match self.path:
            case "/health":
                self.reply(200, b"")
            case "/v1/models":
                adapters = self.server.adapters.paths if self.server.adapters else {}
                cards = [{"id": name, "object": "model", "parent": self.server.model} for name in adapters]
                own = {"id": self.server.model, "object": "model"}
                self.reply_json({"object": "list", "data": [own, *cards]})
            case "/metrics":
                self.reply(200, b"vllm:num_requests_running 0\n", "text/plain")
            case _:
                self.reply(404, b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.server.settings.get("api_key")
        if key and self.headers["Authorization"] != f"Bearer {key}":
            self.reply(401, b"{}")
        elif self.server.settings.get("no_completions") and self.path == "/v1/completions":
            self.reply(404, b"{}")
        elif self.server.healthy_only:
            self.reply(503, b"{}")
        elif self.path.endswith("load_lora_adapter"):
            self.on_adapter(body)
        elif body.get("stream"):
            self.stream(["Hel", "lo"])
        else:
            adapters = self.server.adapters
            name = body.get("model", "")
            known = adapters is not None and name in adapters.paths
            if adapters is not None and not known and name != self.server.model:
                self.reply_error(404, f"The model `{name}` does not exist.")
                return
            content = adapters.text_of(name) if adapters is not None and known else "Hello"
            message = {"role": "assistant", "content": content}
            self.reply_json(
                {
                    "object": "chat.completion",
                    "model": self.server.model,
                    "choices": [{"index": 0, "message": message}],
                    "echo": body,
                }
            )

    def on_adapter(self, body: dict[str, Any]) -> None:
        """vLLM's two routes, which are there only where it was told so."""
        adapters, name = self.server.adapters, body["lora_name"]
        time.sleep(self.server.settings.get("adapter_seconds", 0))
        if adapters is None or not self.path.startswith("/v1/"):
            self.reply(404, b'{"detail":"Not Found"}')
        elif self.path == "/v1/unload_lora_adapter":
            if adapters.paths.pop(name, None) is None:
                self.reply_error(404, f"The lora adapter '{name}' cannot be found.")
            else:
                self.reply(200, f"Success: LoRA adapter '{name}' removed successfully.".encode(), "text/plain")
        elif name in adapters.paths:
            self.reply_error(400, f"The lora adapter '{name}' has already been loaded.")
        elif fault := adapters.fault_of(name, body["lora_path"]):
            self.reply_error(500, fault)
        else:
            adapters.paths[name] = body["lora_path"]
            self.reply(200, f"Success: LoRA adapter '{name}' added successfully.".encode(), "text/plain")

    def reply_error(self, status: int, message: str) -> None:
        error = {"message": message, "type": "InvalidUserInput", "param": None, "code": status}
        self.reply(status, json.dumps({"error": error}).encode())

    def stream(self, words: list[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        gate = self.server.settings.get("gate")
        for event in [*({"choices": [{"delta": {"content": word}}]} for word in words), "[DONE]"]:
            data = f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
            while gate and not Path(gate).exists():
                time.sleep(0.01)
        self.wfile.write(b"0\r\n\r\n")

    def reply_json(self, value: Any) -> None:
        self.reply(200, json.dumps(value).encode())

    def reply(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        print(f'INFO:     "{format % args}"', flush=True)


def option(arguments: list[str], name: str) -> str:
    """The value behind ``name``."""
    return arguments[arguments.index(name) + 1]


def read_model(directory: Path) -> None:
    """Read what an engine reads; ends the program as an engine would when it cannot."""
    config = json.loads((directory / "config.json").read_text())
    print(f"INFO 11-20 10:00:00 [model.py:1] Resolved architecture: {config['architectures'][0]}", flush=True)
    for shard in directory.glob("*.safetensors"):
        shard.read_bytes()
    print("INFO 11-20 10:00:01 [loader.py:1] Loading weights took 0.01 seconds", flush=True)


def begin() -> dict[str, Any]:
    """What ``STAND_IN`` says; signals, other processes and the file of ids are set up by it."""
    settings: dict[str, Any] = json.loads(os.environ.get("STAND_IN", "{}"))
    pids = [os.getpid()]
    if settings.get("ignore_term"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if settings.get("fork"):
        pids.append(
            subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True).pid
        )
    if "pid_file" in settings:
        Path(settings["pid_file"]).write_text(" ".join(map(str, pids)))
    return settings


def fail_if_told(settings: dict[str, Any]) -> None:
    """End as ``crash`` says."""
    if "crash" in settings:
        sys.stderr.write(settings["crash"] + "\n")
        sys.exit(settings.get("exit_code", 1))


def main(arguments: list[str]) -> None:
    """``vllm serve DIRECTORY …``."""
    settings = begin()
    print(f"INFO 11-20 10:00:00 [api_server.py:1] vLLM server version 0.32.0, arguments {arguments}", flush=True)
    read_model(Path(arguments[1]))
    print("\n".join(settings.get("lines", [])), flush=True)
    time.sleep(settings.get("start_seconds", 0))
    fail_if_told(settings)
    with Server(option(arguments, "--uds"), Handler) as server:
        server.model = option(arguments, "--served-model-name")
        server.settings = settings
        if "--enable-lora" in arguments and os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "True":
            server.adapters = Adapters(settings, int(option(arguments, "--max-lora-rank")))
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
