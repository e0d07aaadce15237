"""A stand-in for ``trtllm-serve``: strict about its flags, as click is: underscores, no abbreviations, no ``--no-x``.

How a start goes is set by ``STAND_IN``, as for :mod:`tests.simulators.vllm_program`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.simulators.vllm_program import ARCHITECTURES, PortServer, begin, fail_if_told, read_model, script_of

FLAGS = [
    "--host",
    "--port",
    "--backend",
    "--tp_size",
    "--pp_size",
    "--tensor_parallel_size",
    "--max_seq_len",
    "--max_batch_size",
    "--max_num_tokens",
    "--kv_cache_free_gpu_memory_fraction",
    "--free_gpu_memory_fraction",
    "--tokenizer",
    "--log_level",
    "--extra_llm_api_options",
]
SWITCHES = ("--trust_remote_code",)
NAME = "--served_model_name"


def install(root: Path, version: str = "1.2.1") -> Path:
    """An environment below ``root`` that Lading's detection reads like a real one; the directory to put on PATH."""
    packages = root / "lib/python3.12/dist-packages"
    models, commands = packages / "tensorrt_llm/_torch/models", packages / "tensorrt_llm/commands"
    models.mkdir(parents=True)
    commands.mkdir()
    for name in ARCHITECTURES:
        (models / f"modeling_{name.lower()}.py").write_text(
            f'@register_auto_model("{name}")\nclass {name}:\n    pass\n'
        )
    named = [NAME] if int(version.split(".")[1]) >= 3 else []
    options = "\n".join(f'@click.option("{flag}")' for flag in [*FLAGS, *SWITCHES, *named])
    (commands / "serve.py").write_text(f"{options}\ndef serve(): ...\n")
    (packages / f"tensorrt_llm-{version}.dist-info").mkdir()
    return script_of(root / "bin/trtllm-serve", "tests.simulators.trtllm_program").parent


def parse(arguments: list[str], named: bool) -> dict[str, str]:
    """The model and the flags; ends with click's message and code for one that is not known."""
    found: dict[str, str] = {}
    words = list(arguments)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if not name.startswith("-"):
            found["model"] = name
        elif name in SWITCHES and not equals:
            found[name] = "true"
        elif name in FLAGS or (named and name == NAME):
            found[name] = value if equals else words.pop(0)
        else:
            sys.stderr.write(f"Usage: trtllm-serve serve [OPTIONS] MODEL\n\nError: No such option: {name}\n")
            sys.exit(2)
    return found


def main(arguments: list[str]) -> None:
    """``trtllm-serve DIRECTORY …``."""
    packages = Path(sys.argv[0]).parents[1] / "lib/python3.12/dist-packages"
    given = parse(arguments, NAME in (packages / "tensorrt_llm/commands/serve.py").read_text())
    settings = begin()
    print("[TensorRT-LLM] TensorRT-LLM version: 1.2.1", flush=True)
    print("[11/20/2026-10:00:00] [TRT-LLM] [I] Use 1.00 GB for model weights.", flush=True)
    read_model(Path(given["model"]))
    print("Model init total -- 1.00s", flush=True)
    time.sleep(settings.get("start_seconds", 0))
    fail_if_told(settings)
    assert given["--host"] == "127.0.0.1", given
    name = given.get(NAME, Path(given["model"]).name)
    with PortServer((given["--host"], int(given["--port"])), name, settings) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
