"""What is around an example: the model at its source, the credentials of its user, the image, a proxy, volumes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lading.sources.override import flat_name
from lading.uri import ModelUri
from tests.hosting.engines import engine_files
from tests.manifests.documents import VLLM, file_of, profile_id, version_2
from tests.models import tiny_model, write_model
from tests.program import environment, run, without_sockets
from tests.seeds.example import Example, Image
from tests.simulators.ngc import NgcSimulator
from tests.sources.contract.conftest import set_up
from tests.sources.contract.stand import AWS_SECRET, CREDENTIALS, HF_TOKEN, MODELSCOPE_TOKEN, NGC_KEY, ServedStand
from tests.sources.contract.stands import GoogleStand, HubStand, ModelScopeStand, NgcStand, S3Stand
from tests.sources.servers import TLS, ForwardProxy, TlsFront

BINARIES = Path(sys.executable).parent
_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 8192}
BF16 = tiny_model(config=_HEADS)
FP8 = tiny_model(elements=20_000, config=_HEADS | {"quantization_config": {"quant_method": "fp8"}})
NAMES = [name for name in BF16 if name != "README.md"]
NGC = ModelUri.parse("ngc://acme/lab/tiny:1.0")
CARRIED = ModelUri.parse("ngc://org/team/model:tag")
PINNED_ID = int("70edb8bb9f8511ce2ea195e3caebcc3c7191dc27fea0c8d4acf9c0d9a69e43cd", 16)  # of seed 003
_HUB_MODELS = ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.2-1B", "TinyLlama/TinyLlama-1.1B-Chat-v1.0")
_AUTHORITY = TLS / "names-ca.pem"


class NamedFront(TlsFront):
    """TLS in front of a registry and of its storage, which has another name."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._context.load_cert_chain(TLS / "names.pem")


@dataclass
class World:
    """An example, ready to be run by ``sh`` in ``directory``."""

    example: Example
    image: Image
    directory: Path
    script: str
    environ: dict[str, str]
    proxy: ForwardProxy
    stand: Any
    profile: str

    @property
    def expected(self) -> dict[str, bytes]:
        """The files that the image's first profile stands for."""
        return BF16 if self.image is Image.FREE else {name: BF16[name] for name in NAMES}


def image_manifest(model: ModelUri) -> str:
    """The manifest of an image whose files are at ``model``: BF16 at the top, FP8 in a folder."""
    bf16 = {name: file_of(str(model.with_file(name)), BF16[name]) for name in NAMES}
    fp8 = {name: file_of(str(model.with_file(f"fp8/{name}")), FP8[name]) for name in NAMES}
    return version_2(
        (1, VLLM, bf16),
        (2, {**VLLM, "tp": "2"}, bf16),
        (3, {**VLLM, "feat_lora": "true"}, bf16),
        (PINNED_ID, {**VLLM, "precision": "fp8"}, fp8),
        (5, {**VLLM, "precision": "fp8", "tp": "4"}, fp8),
    )


def files_for(image: Image) -> dict[str, bytes]:
    """What is at the source: of a model-specific image, both precisions."""
    return BF16 if image is Image.FREE else BF16 | {f"fp8/{name}": FP8[name] for name in NAMES}


@contextmanager
def around(
    example: Example, image: Image, directory: Path, machine: Mapping[str, str], bare: pytest.MonkeyPatch
) -> Iterator[World]:
    """All that the example needs, while the block runs. ``machine`` are the variables of engine and GPUs."""
    with ExitStack() as stack:
        proxy = stack.enter_context(ForwardProxy())
        stand = _stand(example, image, directory, bare, stack)
        inside = environment(directory / "inside", **machine, **_internet(stand), NIM_CACHE_PATH="/opt/nim/.cache")
        host = {name: inside[name] for name in inside if name.startswith(("COVERAGE", "LANG", "PYTHONPATH"))}
        host |= _credentials() | {"HOME": str(directory / "home"), "PATH": f"{directory / 'bin'}:{inside['PATH']}"}
        model = _lay_out(example, image, directory, stand, inside)
        if example.bucket:
            _mirror(example, stand, inside, stack)
        if example.proxied:
            inside |= _behind(stand, stack)
        profile = _profile(example, image, inside, model)
        if example.stand == "carried" or "--network none" in example.text:
            inside = without_sockets(directory, inside)
        host |= {"NIM_MODEL_PROFILE": profile, "YOUR_NIM_MODEL_PROFILE": profile, "PROFILE_HASH": profile}
        host |= {"LOCAL_NIM_CACHE": str(directory / "model-cache"), "LOCAL_CACHE": str(directory / "local-cache")}
        host |= {"MODEL_REPO": str(directory / "model-repo"), "CONTAINER_NAME": "nim"}
        host |= dict.fromkeys(
            ("NIM_LLM_IMAGE", "NIM_LLM_MODEL_SPECIFIC_IMAGE", "NIM_LLM_MODEL_FREE_IMAGE", "IMG_NAME"), "nim"
        )
        about = {"environ": inside, "root": str(directory / "host"), "inside": str(directory / "inside")}
        (directory / "container.json").write_text(json.dumps(about))
        _install_docker(directory)
        text = _from_kubernetes(example.text, directory) if example.is_kubernetes else example.text
        for written, here in _placeholders(stand, proxy, profile).items():
            text = text.replace(written, here)
        if "docker run" not in text:
            host |= {name: value for name, value in inside.items() if name not in host}  # it is typed in the container
        yield World(example, image, directory, text, host, proxy, stand, profile)


def _stand(example: Example, image: Image, directory: Path, bare: pytest.MonkeyPatch, stack: ExitStack) -> Any:
    """The source, which knows the credentials that examples write down; None where there is none any more."""
    if example.stand in ("path", "carried"):
        return None
    making = set_up(example.stand, directory, bare, files_for(image))
    stack.callback(lambda: next(making, None))
    stand = next(making)
    match stand:
        case NgcStand():
            for key in ("nvapi-xxxxxxxxxxxxxxxxxxxxxx", "your_api_key"):
                stand.server.add_key(key, "acme")
        case HubStand():
            stand.server.require_token("hf_your_token_here")
            for name in _HUB_MODELS:
                stand.server.add_model(name, BF16, private=name.startswith("meta-llama/"))
        case ModelScopeStand():
            stand.server.require_token("your_token_here")
        case S3Stand():
            stand.server.keys |= {"AKIAIOSFODNN7EXAMPLE": None, "AKIAMINE": None}
            model = {f"my-org/my-fine-tuned-model/{name}": data for name, data in BF16.items()}
            stand.server.add("my-bucket", model)
            stand.server.add("my-models-bucket", {})
        case GoogleStand():
            stand.server.buckets["my-models-bucket"] = {}
            login = directory / "host/path/to/sa.json"
            login.parent.mkdir(parents=True)
            shutil.copy(directory / "login.json", login) if (directory / "login.json").exists() else None
    return stand


def _internet(stand: Any) -> dict[str, str]:
    """Where the servers are that an image finds by itself."""
    if stand is None:
        return {}
    left_out = {*CREDENTIALS, "GOOGLE_APPLICATION_CREDENTIALS"}
    return {name: value for name, value in stand.environ.items() if name not in left_out}


def _credentials() -> dict[str, str]:
    """What the user has, by the names that examples use."""
    ours = {"NGC_API_KEY": NGC_KEY, "HF_TOKEN": HF_TOKEN, "MODELSCOPE_API_TOKEN": MODELSCOPE_TOKEN}
    access = {"AWS_ACCESS_KEY": "AKIAMINE", "AWS_SECRET_KEY": AWS_SECRET}
    minio = {"MINIO_ACCESS_KEY": "AKIAMINE", "MINIO_SECRET_KEY": AWS_SECRET}
    theirs = {**ours, **access, **minio, "MODELSCOPE_TOKEN": MODELSCOPE_TOKEN}
    return ours | {f"YOUR_{name}": value for name, value in theirs.items()}


def _lay_out(example: Example, image: Image, directory: Path, stand: Any, inside: dict[str, str]) -> str:
    """Make what lies on the machine: directories of models, the authority, the image's manifest. The model's location."""
    for place in ("mnt/models/my-120b-model", "mnt/models/llama-3.1-8b", "opt/models/llama-3.1-8b"):
        write_model(directory / "host" / place, BF16)
    for place in ("path/to/model-repo", "path/to/model-repository"):
        write_model(directory / "host" / place, BF16)
    write_model(directory / "local-cache/PATH_TO_HF_WEIGHT", BF16)
    write_model(directory / "local-cache/PATH_TO_TRTLLM_ENGINE", engine_files())
    for place in ("local-cache/PATH_TO_MODEL_WEIGHT", "Llama-3.2-1B-Instruct"):
        write_model(directory / place, BF16)
    (directory / "opt_llama32_1b.yaml").write_text("dtype: float16\ntp_size: 1\nmax_seq_len: 8192\n")
    for authority in (directory / "host/path/to/corporate-ca.pem", directory / "home/.mitmproxy/corporate-ca.pem"):
        authority.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_AUTHORITY, authority)
    location = NGC if example.bucket or stand is None else stand.uri
    if image is Image.SPECIFIC:
        (directory / "inside").mkdir(exist_ok=True)
        for manifest in (directory / "inside/model_manifest.yaml", directory / "model_manifest_mistral7b.yaml"):
            manifest.write_text(image_manifest(CARRIED if example.stand == "carried" else location))
        inside["NIM_MANIFEST_PATH"] = str(directory / "inside/model_manifest.yaml")
    elif not re.search("NIM_MODEL_PATH|NIM_MODEL_NAME|hf://", example.text):
        inside["NIM_MODEL_PATH"] = str(location)
    if example.stand == "carried":
        _carry(image, directory, inside)
    (directory / "inside").mkdir(exist_ok=True)
    return str(location)


def _carry(image: Image, directory: Path, inside: Mapping[str, str]) -> None:
    """Fill a cache where there is a network, and bring it where the examples look for it."""
    with NgcSimulator() as ngc:
        ngc.add_model(CARRIED.location, CARRIED.revision or "", files_for(image))
        ngc.add_key("nvapi-connected", "org")
        there = {"NGC_CLI_API_URL": ngc.endpoint, "NGC_CLI_AUTH_URL": ngc.endpoint, "NGC_API_KEY": "nvapi-connected"}
        model = [] if image is Image.SPECIFIC else ["--model-uri", str(CARRIED)]
        named = ["--profiles", profile_id(1)] if image is Image.SPECIFIC else []
        environ = {**inside, **there, "NIM_CACHE_PATH": str(directory / "connected")}
        done = run(["download-to-cache", *model, *named], environ)
        assert done.returncode == 0, done.stderr
    for place in ("host/path/to/persistent-nim-cache", "host/path/to/transferred-cache", "nim-cache"):
        shutil.copytree(directory / "connected", directory / place, symlinks=True)


def _mirror(example: Example, stand: Any, inside: dict[str, str], stack: ExitStack) -> None:
    """NGC, which keys open, and a bucket that holds its files unless the example fills it."""
    ngc = stack.enter_context(NgcSimulator())
    ngc.add_model(NGC.location, NGC.revision or "", files_for(Image.SPECIFIC))
    ngc.add_key("nvapi-xxxxxxxxxxxxxxxxxxxxxx", "acme")
    ngc.add_key(NGC_KEY, "acme")
    inside |= {"NGC_CLI_API_URL": ngc.endpoint, "NGC_CLI_AUTH_URL": ngc.endpoint}
    if "mirror" not in example.text.split():
        for name, data in files_for(Image.SPECIFIC).items():
            key = flat_name(NGC.with_file(name))
            if isinstance(stand, GoogleStand):
                stand.server.put(example.bucket, key, data)
            else:
                stand.server.buckets[example.bucket].objects[key] = data


def _behind(stand: ServedStand, stack: ExitStack) -> dict[str, str]:
    """The registry over TLS, to be reached through a proxy alone."""
    front = stack.enter_context(NamedFront(stand.server.port))
    stand.server.endpoint, stand.server.cdn_endpoint = front.endpoint, f"https://localhost:{front.port}"
    places = dict.fromkeys(("NGC_CLI_API_URL", "NGC_CLI_AUTH_URL", "HF_ENDPOINT"), front.endpoint)
    return {**places, "NO_PROXY": "", "SSL_CERT_FILE": str(_AUTHORITY)}


def _profile(example: Example, image: Image, inside: Mapping[str, str], model: str) -> str:
    """The profile's id: of an image's manifest the first, else the one that ``list-model-profiles`` shows first."""
    if image is Image.SPECIFIC:
        return profile_id(1)
    if "PROFILE" not in example.text or example.stand in ("path", "carried"):
        return ""
    keys = {**_credentials(), "AWS_ACCESS_KEY_ID": "AKIAMINE", "AWS_SECRET_ACCESS_KEY": AWS_SECRET}
    login = str(Path(inside["HOME"]).parents[1] / "host/path/to/sa.json")
    environ = {**inside, **keys, "NIM_CACHE_PATH": f"{inside['HOME']}/other-cache"}
    environ |= {"GOOGLE_APPLICATION_CREDENTIALS": login} if example.stand == "gs" else {}
    done = run(["list-model-profiles", model, "--format", "json"], environ)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["profiles"][0]["profile_id"])


def _placeholders(stand: Any, proxy: ForwardProxy, profile: str) -> dict[str, str]:
    """What a reader puts in place of what the seeds write."""
    endpoint = stand.server.endpoint if isinstance(stand, ServedStand) else ""
    return {
        "<yourtoken>": HF_TOKEN,
        "<key>": "AKIAMINE",
        "<secret>": AWS_SECRET,
        "<tp8_profile>": "vllm-bf16-tp8-pp1",
        "<PROFILE_HASH>": profile,
        "<your_profile_hash>": profile,
        "http://proxy.corp.example.com:8080": proxy.url,
        "http://proxy-host:8888": proxy.url,
        "http://host.docker.internal:8888": proxy.url,
        "http://minio.internal:9000": endpoint,
        "http://localhost:8090": endpoint,
        "NIM_SERVER_PORT=8000": "NIM_SERVER_PORT=0",  # any free one
    }


def _from_kubernetes(text: str, directory: Path) -> str:
    """A container of a pod, as docker is told of it: ``command`` in the entry point's place, volumes, secrets."""
    (container,) = yaml.safe_load(text)["containers"]
    words = ["docker", "run"]
    for each in container.get("env", ()):
        secret = "valueFrom" in each
        words += ["-e", each["name"] if secret else f"{each['name']}={each['value']}"]
    for each in container.get("volumeMounts", ()):
        words += ["-v", f"{directory / each['name']}:{each['mountPath']}"]
    command = container.get("command", [])
    words += ["--entrypoint", command[0]] if command else []
    return shlex.join([*words, container["image"], *command[1:], *container.get("args", [])])


def _install_docker(directory: Path) -> None:
    program = directory / "bin/docker"
    program.parent.mkdir()
    shim = shlex.quote(str(Path(__file__).with_name("docker.py")))
    program.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S {shim} {shlex.quote(str(directory / "container.json"))} "$@"\n'
    )
    program.chmod(0o755)
