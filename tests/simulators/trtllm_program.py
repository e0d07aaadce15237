"""A stand-in for ``trtllm-serve``: strict about its flags, as click is: underscores, no abbreviations, no ``--no-x``.

How a start goes is set by ``STAND_IN``, as for :mod:`tests.simulators.vllm_program`.
"""

from __future__ import annotations

import json
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


def install_builder(root: Path) -> None:
    """What releases up to 1.2 have besides: ``trtllm-build``, an interpreter, and the classes that convert."""
    package = root / "lib/python3.12/dist-packages/tensorrt_llm"
    for name, text in CONVERTER.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text)
    repository = Path(__file__).resolve().parents[2]
    python = root / "bin/python3"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={package.parent} exec {sys.executable} "$@"\n')
    program = root / "bin/trtllm-build"
    program.write_text(
        f"#!{python}\nimport runpy, sys\nsys.path.insert(0, {str(repository)!r})\n"
        "runpy.run_module('tests.simulators.trtllm_build_program', run_name='__main__')\n"
    )
    for each in (python, program):
        each.chmod(0o755)


CONVERTER = {
    "__init__.py": "",
    "mapping.py": "from dataclasses import dataclass\n\n@dataclass\nclass Mapping:\n"
    "    world_size: int\n    rank: int\n    tp_size: int\n    pp_size: int\n",
    "quantization/__init__.py": "class QuantAlgo:\n    W8A16, W4A16 = 'W8A16', 'W4A16'\n",
    "models/__init__.py": "",
    "models/modeling_utils.py": "from dataclasses import dataclass\n\n@dataclass\nclass QuantConfig:\n    quant_algo: str | None = None\n",
    "models/automodel.py": """
import json
from pathlib import Path

class Model:
    def __init__(self, config, mapping):
        self.config, self.mapping = config, mapping

    def save_checkpoint(self, output_dir, save_config):
        out = Path(output_dir)
        if save_config:
            (out / "config.json").write_text(json.dumps(self.config))
        (out / f"rank{self.mapping.rank}.safetensors").write_bytes(b"part %d" % self.mapping.rank)

class AutoModelForCausalLM:
    @staticmethod
    def from_hugging_face(directory, dtype="auto", mapping=None, quant_config=None):
        hf = json.loads((Path(directory) / "config.json").read_text())
        architecture = hf["architectures"][0]
        if architecture != "LlamaForCausalLM":
            raise NotImplementedError(f"The given huggingface model architecture {architecture} is not supported in TRT-LLM yet")
        split = {"world_size": mapping.world_size, "tp_size": mapping.tp_size, "pp_size": mapping.pp_size}
        names = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size", "vocab_size", "intermediate_size", "max_position_embeddings")
        config = {name: hf[name] for name in names}
        config |= {"architecture": architecture, "dtype": "bfloat16" if dtype == "auto" else dtype, "mapping": split}
        config["quantization"] = {"quant_algo": quant_config.quant_algo if quant_config else None, "kv_cache_quant_algo": None}
        return Model(config, mapping)
""",
}


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


def load_engine(model: Path, given: dict[str, str], ranks: int) -> None:
    """A built engine: only the older backend runs it, and it brings no tokenizer."""
    if given.get("--backend") != "tensorrt":
        sys.stderr.write(f"RuntimeError: No weight files found in {model}.\n")
        sys.exit(1)
    assert (Path(given["--tokenizer"]) / "tokenizer.json").is_file(), given
    for rank in range(ranks):
        size = len((model / f"rank{rank}.engine").read_bytes())
        print(f"[TensorRT-LLM][INFO] Loaded engine size: {size} MiB", flush=True)


def main(arguments: list[str]) -> None:
    """``trtllm-serve DIRECTORY …``."""
    packages = Path(sys.argv[0]).parents[1] / "lib/python3.12/dist-packages"
    given = parse(arguments, NAME in (packages / "tensorrt_llm/commands/serve.py").read_text())
    settings = begin()
    print("[TensorRT-LLM] TensorRT-LLM version: 1.2.1", flush=True)
    print("[11/20/2026-10:00:00] [TRT-LLM] [I] Use 1.00 GB for model weights.", flush=True)
    model = Path(given["model"])
    if (model / "rank0.engine").is_file():
        load_engine(
            model,
            given,
            int(json.loads((model / "config.json").read_text())["pretrained_config"]["mapping"]["world_size"]),
        )
    else:
        assert given.get("--backend", "pytorch") == "pytorch", given
        read_model(model)
    print("Model init total -- 1.00s", flush=True)
    time.sleep(settings.get("start_seconds", 0))
    fail_if_told(settings)
    assert given["--host"] == "127.0.0.1", given
    name = given.get(NAME, Path(given["model"]).name)
    with PortServer((given["--host"], int(given["--port"])), name, settings) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
