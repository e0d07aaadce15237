"""The command line, as ``--help`` shows it: commands, their arguments, nothing of what they do."""

from __future__ import annotations

import argparse

from lading import __version__

SERVE = "serve"
LIST = "list-model-profiles"
PLAN = "plan"
TO_CACHE = "download-to-cache"
DOWNLOAD = "download-model"
STORE = "create-model-store"
HUGGING_FACE = "huggingface-cli"
MIRROR = "mirror"
CACHE = "cache"
BUNDLE = "bundle"
OPTIMIZE = "optimize"
DOCTOR = "doctor"
ENGINE = "engine"
INVENTORY = "inventory"
API_KEY = "api-key"
SETTINGS = "settings"


_GPUS_HELP = (
    "another machine than this one: 8xH100-80GB, 2xL40S, 7xH100-80GB:1g.10gb (MIG), "
    "or a file that `lading inventory --json` wrote"
)
_ENGINE_HELP = "an engine, installed or not: vllm, vllm==0.19.0, sglang==0.5.23, tensorrt_llm; unset: those found here"
_FLAGS_HELP = (
    "The engine's flags that change its memory are read too: --max-model-len 32K, --gpu-memory-utilization 0.95, "
    "--max-num-seqs, --max-num-batched-tokens, --kv-cache-dtype fp8, --quantization fp8, --enforce-eager, "
    "--tensor-parallel-size 4, --enable-lora --max-loras 4 --max-lora-rank 64 ... Other flags are passed over."
)


def command_line() -> argparse.ArgumentParser:
    """The command line, as ``--help`` shows it. ``serve`` splits its own arguments: the engine's are open-ended."""
    parser = argparse.ArgumentParser(
        prog="lading",
        description="Serve any model, from anywhere, on whatever hardware is here.",
        epilog="A location, a path or a flag in place of a command means serve: `lading hf://ORG/MODEL`.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lading {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_serve(commands)
    _add_list(commands)
    _add_plan(commands)
    _add_doctor(commands)
    _add_download_to_cache(commands)
    _add_download_model(commands)
    _add_create_model_store(commands)
    _add_huggingface_cli(commands)
    _add_mirror(commands)
    _add_cache(commands)
    _add_bundle(commands)
    _add_optimize(commands)
    _add_inventory(commands)
    _add_engine(commands)
    _add_api_key(commands)
    commands.add_parser(SETTINGS, help="list every setting that is read from the environment")
    return parser


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from lading.cli.own_flags import OWN_FLAG_HELP

    serve = commands.add_parser(
        SERVE,
        help="serve a model as an OpenAI API (also: nim-serve)",
        usage="lading serve [MODEL] [flags of Lading] [flags of the engine ...]",
        epilog="Every other flag goes to the engine unchanged and wins over what Lading would choose: "
        "--max-model-len 8192, --tensor-parallel-size 2, --enable-lora ...; --host and --port are the gateway's.",
    )
    serve.add_argument("model", nargs="?", metavar="MODEL", help="URI or directory; `demo`; unset: NIM_MODEL_PATH")
    for flag, text in OWN_FLAG_HELP.items():
        serve.add_argument(flag, action="store_true", help=text)


def _add_list(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    listing = commands.add_parser(
        LIST, help="show which profiles of a model fit this machine, and why", allow_abbrev=False, epilog=_FLAGS_HELP
    )
    listing.add_argument("model", nargs="?", metavar="MODEL", help="URI or directory; unset: NIM_MODEL_PATH")
    listing.add_argument("--model", dest="model_flag", metavar="MODEL", help="the same, as NIM 1.x spells it")
    _add_manifest_file(listing, "-m")
    listing.add_argument("--format", choices=("text", "json"), default="text", help="default: text, as NIM prints it")
    listing.add_argument("--refresh", action="store_true", help="ask the source again even if the model is cached")
    listing.add_argument("--explain", action="store_true", help="show what each profile's memory goes to, term by term")
    listing.add_argument("--gpus", metavar="GPUS", help=_GPUS_HELP)
    listing.add_argument("--engine", metavar="ENGINE", help=_ENGINE_HELP)
    listing.add_argument("--debug", action="store_true", help="log everything, and show tracebacks")


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    plan = commands.add_parser(
        PLAN,
        help="show which GPUs of the catalogue could serve a model, how long a sequence and how many at once",
        allow_abbrev=False,
        epilog=_FLAGS_HELP,
    )
    plan.add_argument("model", nargs="?", metavar="MODEL", help="URI or directory; unset: NIM_MODEL_PATH")
    plan.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    plan.add_argument("--refresh", action="store_true", help="ask the source again even if the model is cached")
    plan.add_argument("--engine", metavar="ENGINE", help=_ENGINE_HELP)
    plan.add_argument("--debug", action="store_true", help="log everything, and show tracebacks")


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    doctor = commands.add_parser(
        DOCTOR,
        help="tell which credential is found for a model, whether its source answers, and what would be fetched",
        allow_abbrev=False,
    )
    doctor.add_argument("model", nargs="?", metavar="MODEL", help="URI or directory; unset: NIM_MODEL_PATH")
    doctor.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    doctor.add_argument("--debug", action="store_true", help="log everything, and show tracebacks")


def _add_download_to_cache(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        TO_CACHE,
        help="fetch a model into the cache, verified, without serving it",
        allow_abbrev=False,
        epilog="Without a profile it is the one that serving would select. All profiles of a model that is named "
        "by its location use the same files. Run again it goes on where it stopped; a complete model moves no bytes.",
    )
    parser.add_argument("--all", action="store_true", help="all profiles of the model")
    _add_profiles(parser)
    parser.add_argument("--lora", action="store_true", help="the default LoRA profile")
    _add_manifest_file(parser, "-m", writing=True)
    _add_fetching(parser)


def _add_download_model(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        DOWNLOAD,
        help="fetch a model and lay it out as a directory, without serving it",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workspace-path",
        metavar="DIR",
        help="make it a plain directory of real files, as create-model-store does; unset: links in the cache, as "
        "serving uses them",
    )
    _add_profiles(parser)
    _add_manifest_file(parser, "-m", writing=True)
    _add_fetching(parser)


def _add_create_model_store(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        STORE,
        help="make a model a directory of real files: for tar, for rsync, to be served without cache and network",
        allow_abbrev=False,
        epilog="The files share the cache's blocks or are hard links to it where the disk allows that, else copies; "
        "every one is hashed. What is not in the cache is fetched first. A directory that holds anything else is "
        "refused. Serve it with `lading serve DIR`, or NIM_MODEL_PATH=DIR.",
    )
    parser.add_argument("--profile", "-p", metavar="PROFILE", help="id or name of the profile to make a directory for")
    parser.add_argument("--model-store", "-m", metavar="DIR", required=True, help="a new or empty directory")
    parser.add_argument(
        "--model-repo", metavar="URI", help="the model, as NIM 1.x names it; then no profile need be named"
    )
    _add_manifest_file(parser, writing=True)
    _add_fetching(parser)


def _add_huggingface_cli(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    hub = commands.add_parser(
        HUGGING_FACE,
        help="fetch a model as Hugging Face's old program did, for tools that call it (the NIM Operator)",
        allow_abbrev=False,
        epilog="An image puts it on PATH under its bare name. Files that no engine needs are left out.",
    )
    actions = hub.add_subparsers(dest="action", metavar="ACTION", required=True)
    parser = actions.add_parser("download", help="fetch a model into a directory of real files", allow_abbrev=False)
    parser.add_argument("repository", metavar="ORG/MODEL", help="the model")
    parser.add_argument("--local-dir", metavar="DIR", required=True, help="where it shall be")
    parser.add_argument("--revision", metavar="REVISION", help="branch, tag or commit; default: main")
    parser.add_argument("--repo-type", choices=("model",), default="model", help="only models are fetched")
    parser.add_argument("--debug", action="store_true", help="log everything, and show tracebacks")


def _add_mirror(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        MIRROR,
        help="copy a model of NGC into a bucket, for NIM_REPOSITORY_OVERRIDE to serve it from there",
        allow_abbrev=False,
        epilog="The model is brought into the cache first, as download-to-cache does. What the bucket has with the "
        "same digest is not sent again; an upload that was cut off is continued; every object is looked at in the end. "
        "Serve it with NIM_REPOSITORY_OVERRIDE=s3://BUCKET[/PREFIX] (gs://…) and the model's own ngc:// location.",
    )
    parser.add_argument(
        "kind", choices=("s3", "gcs"), help="Amazon S3 or a server that speaks it; Google Cloud Storage"
    )
    parser.add_argument(
        "--bucket",
        "-b",
        metavar="BUCKET",
        required=True,
        help="bucket, bucket/prefix, or s3://… and gs://…; it must exist",
    )
    _add_profiles(parser)
    _add_manifest_file(parser, "-m")
    _add_fetching(parser)


def _add_manifest_file(parser: argparse.ArgumentParser, *short: str, writing: bool = False) -> None:
    written = "; beside --model-uri: where the manifest of that model is written" if writing else ""
    parser.add_argument(
        "--manifest-file",
        "--manifest",
        *short,
        metavar="FILE",
        help=f"the NIM manifest that lists the profiles; unset: NIM_MANIFEST_PATH{written}",
    )


def _add_profiles(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profiles",
        "--profile",
        "-p",
        dest="profiles",
        metavar="PROFILE",
        nargs="*",
        action="extend",
        default=[],
        help="ids or names, several, or given again; unset: NIM_MODEL_PROFILE, else the best that fits",
    )


def _add_fetching(parser: argparse.ArgumentParser) -> None:
    """What all commands take that fetch without serving."""
    parser.add_argument("--model-uri", metavar="URI", help="URI or directory of the model; unset: NIM_MODEL_PATH")
    parser.add_argument("--model-cache-path", metavar="DIR", help="the cache's directory; unset: NIM_CACHE_PATH")
    parser.add_argument(
        "--use-cache", action="store_true", help="take what the cache has complete, without asking the source"
    )
    parser.add_argument(
        "--verify-checksums",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="hash again what the cache has of the model; what is fetched is verified in any case",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and do nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--debug", action="store_true", help="log everything, and show tracebacks")


def _add_inventory(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    inventory = commands.add_parser(INVENTORY, help="show the GPUs and the RAM that a model is fitted to")
    inventory.add_argument("--gpus", metavar="GPUS", help=_GPUS_HELP)
    inventory.add_argument("--json", action="store_true", help="print one JSON object, to be given to --gpus later")
    inventory.add_argument("--debug", action="store_true", help="log everything, and show tracebacks")


def _add_api_key(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        API_KEY,
        help="make an API key for a client of the gateway",
        allow_abbrev=False,
        epilog="The line for LADING_API_KEYS_FILE goes to standard output, the key itself, once, to standard error: "
        "`lading api-key alice >> keys`.",
    )
    parser.add_argument("name", metavar="NAME", help="whose key it is: what metrics call it")
    parser.add_argument("--stdin", action="store_true", help="read an existing key from standard input instead")
    parser.add_argument("--debug", action="store_true", help="log everything, and show tracebacks")


def _add_engine(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    engine = commands.add_parser(ENGINE, help="manage the embedded CPU engine")
    actions = engine.add_subparsers(dest="action", metavar="ACTION", required=True)
    install = actions.add_parser("install", help="install it into an environment of its own; safe to repeat")
    install.add_argument("--dry-run", action="store_true", help="say what would be downloaded and how big it is")
    for name, text in (
        ("list", "list the engines found on this machine"),
        ("path", "print the environment's directory"),
    ):
        actions.add_parser(name, help=text)
    remove = actions.add_parser("remove", help="delete the environment")
    remove.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    for each in actions.choices.values():
        each.add_argument("--debug", action="store_true", help="log everything, and show tracebacks")


def _add_cache(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    cache = commands.add_parser(CACHE, help="list, verify and clean up what was fetched")
    actions = cache.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="what the cache has of which model, how large, when last used, by whom")
    verify = actions.add_parser("verify", help="hash all files again; damaged ones are removed, to be fetched again")
    verify.add_argument("model", nargs="?", metavar="MODEL", help="URI as in `list`; unset: all models")
    verify.add_argument("--dry-run", action="store_true", help="tell which are damaged, and remove none")
    collect = actions.add_parser("gc", help="delete what no model and no running server needs")
    collect.add_argument("--unused-for", metavar="TIME", help="forget models not used for so long first: 30d, 12h, 2w")
    collect.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    remove = actions.add_parser("remove", help="forget a model and delete the files that no other model has")
    remove.add_argument("model", metavar="MODEL", help="URI as in `list`")
    remove.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    for each in actions.choices.values():
        each.add_argument("--json", action="store_true", help="print one JSON object")
        each.add_argument("--debug", action="store_true", help="log everything, and show tracebacks")


def _add_bundle(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bundle = commands.add_parser(BUNDLE, help="pack models of the cache into one archive, and bring them into another")
    actions = bundle.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser(
        "create",
        help="write models of the cache into an archive, or into volumes; run again it goes on where it stopped",
        allow_abbrev=False,
    )
    create.add_argument("file", metavar="FILE", help="the archive to write: models.tar")
    create.add_argument("models", nargs="*", metavar="MODEL", help="URIs as in `cache list`; unset: NIM_MODEL_PATH")
    create.add_argument("--all", action="store_true", help="all models that the cache has complete")
    create.add_argument(
        "--volume-size", metavar="SIZE", help="write FILE.001, FILE.002 ... of at most SIZE: 4GB, 650MB"
    )
    create.add_argument("--sign-key", metavar="KEY", help="sign it with this elliptic curve private key, in PEM")
    take = actions.add_parser(
        "import",
        help="bring the models of an archive into the cache, verified; what is here is not read",
        allow_abbrev=False,
    )
    take.add_argument("file", metavar="FILE", help="the archive, or its first volume")
    take.add_argument("elsewhere", nargs="*", metavar="DIR", help="where more of its volumes are")
    take.add_argument("--verify-key", metavar="KEY", help="refuse it unless this public key, in PEM, signed it")
    take.add_argument("--replace", action="store_true", help="take models that the cache has at another revision too")
    take.add_argument("--verify-checksums", action="store_true", help="hash again what the cache has of them")
    for each in actions.choices.values():
        each.add_argument("--model-cache-path", metavar="DIR", help="the cache's directory; unset: NIM_CACHE_PATH")
        each.add_argument("--dry-run", action="store_true", help="print what would be done, and do nothing")
        each.add_argument("--json", action="store_true", help="print one JSON object")
        each.add_argument("--debug", action="store_true", help="log everything, and show tracebacks")


def _add_optimize(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        OPTIMIZE,
        help="build a TensorRT-LLM engine of a checkpoint, with TensorRT-LLM's own builder (also: nim-optimize)",
        allow_abbrev=False,
        epilog="TensorRT-LLM has the builder up to 1.2. The engine is made in a hidden directory beside DIR, for which "
        "there has to be room, and appears when it is whole. Serve it with `lading serve DIR`.",
    )
    parser.add_argument(
        "--model_dir", "--model-dir", metavar="DIR", required=True, help="checkpoint of Hugging Face or TensorRT-LLM"
    )
    parser.add_argument(
        "--build_config",
        "--build-config",
        metavar="FILE",
        required=True,
        help="YAML of TensorRT-LLM's option names: dtype, tp_size, pp_size, max_seq_len, max_batch_size ...",
    )
    parser.add_argument(
        "--output_engine_dir", "--output-engine-dir", metavar="DIR", required=True, help="a new or empty directory"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything and print the commands, run none")
    parser.add_argument("--debug", action="store_true", help="log everything, and show tracebacks")
