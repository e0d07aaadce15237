"""A stand-in for SGLang: its program or, for releases before 0.5.5, its module; strict about its flags, as argparse is.

How a start goes is set by ``STAND_IN``, as for :mod:`tests.simulators.vllm_program`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.simulators.vllm_program import (
    ARCHITECTURES,
    Adapters,
    Handler,
    PortServer,
    begin,
    fail_if_told,
    read_model,
    script_of,
)

FLAGS = [
    "--model-path",
    "--served-model-name",
    "--host",
    "--port",
    "--tp-size",
    "--pp-size",
    "--context-length",
    "--mem-fraction-static",
    "--max-running-requests",
    "--quantization",
    "--kv-cache-dtype",
    "--tokenizer-path",
    "--tokenizer-mode",
    "--log-level",
    "--api-key",
    "--max-lora-rank",
    "--max-loras-per-batch",
    "--max-loaded-loras",
    "--cuda-graph-backend-decode",
    "--cuda-graph-backend-prefill",
    "--speculative-algorithm",
    "--speculative-draft-model-path",
    "--speculative-num-steps",
    "--speculative-eagle-topk",
    "--speculative-num-draft-tokens",
]
LISTS = ("--lora-paths", "--lora-target-modules")
SWITCHES = ("--enable-metrics", "--enable-lora", "--trust-remote-code", "--disable-cuda-graph", "--disable-radix-cache")


class SglangHandler(Handler):
    """SGLang's routes for adapters: no ``/v1``, always JSON, 400 for whatever goes wrong."""

    def on_adapter(self, body: dict[str, Any]) -> None:
        adapters, name = self.server.adapters, body["lora_name"]
        fault = ""
        if adapters is None:
            fault = "LoRA is not enabled. Please set `--enable-lora` to enable LoRA."
        elif self.path == "/unload_lora_adapter":
            if adapters.paths.pop(name, None) is None:
                fault = f"LoRA with name {name} does not exist. Loaded LoRAs: {adapters.paths.keys()}"
        elif self.path != "/load_lora_adapter":
            self.reply(404, b'{"detail":"Not Found"}')
            return
        elif name in adapters.paths:
            fault = f"LoRA with name {name} already exists."
        else:
            fault = adapters.fault_of(name, body["lora_path"])
            if not fault:
                adapters.paths[name] = body["lora_path"]
        answer = {"success": not fault, "error_message": fault or None}
        self.reply(400 if fault else 200, json.dumps(answer).encode())


def install(root: Path, version: str = "0.5.23") -> Path:
    """An environment below ``root`` that Lading's detection reads like a real one; the directory to put on PATH."""
    packages = root / "lib/python3.11/site-packages"
    models = packages / "sglang/srt/models"
    models.mkdir(parents=True)
    for name in ARCHITECTURES:
        (models / f"{name.lower()}.py").write_text(f"class {name}:\n    pass\n\n\nEntryClass = [{name}]\n")
    (packages / "sglang/launch_server.py").write_text("")
    (packages / f"sglang-{version}.dist-info").mkdir()
    numbers = tuple(int(part) for part in version.split(".")[:3])
    name = "sglang" if numbers >= (0, 5, 5) else "python3"
    return script_of(root / "bin" / name, "tests.simulators.sglang_program").parent


def main(arguments: list[str]) -> None:
    """``sglang serve …`` or ``python3 -m sglang.launch_server …``."""
    if arguments[0] == "serve":
        del arguments[0]
    else:
        assert arguments[:2] == ["-m", "sglang.launch_server"], arguments
        del arguments[:2]
    parser = argparse.ArgumentParser(prog="launch_server.py")
    for flag in FLAGS:
        parser.add_argument(flag)
    for flag in LISTS:
        parser.add_argument(flag, nargs="*")
    for flag in SWITCHES:
        parser.add_argument(flag, action="store_true")
    given = parser.parse_args(arguments)
    settings = begin()
    print(f"[2026-11-20 10:00:00] server_args=ServerArgs(model_path='{given.model_path}')", flush=True)
    print("[2026-11-20 10:00:00] Load weight begin. avail mem=78.00 GB", flush=True)
    read_model(Path(given.model_path))
    print("[2026-11-20 10:00:01] Load weight end. type=X, avail mem=77.00 GB, mem usage=1.00 GB.", flush=True)
    time.sleep(settings.get("start_seconds", 0))
    fail_if_told(settings)
    assert given.host == "127.0.0.1", given.host
    with PortServer((given.host, int(given.port)), given.served_model_name, settings, SglangHandler) as server:
        if given.enable_lora:
            server.adapters = Adapters(settings, int(given.max_lora_rank))
        print("[2026-11-20 10:00:02] The server is fired up and ready to roll!", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
