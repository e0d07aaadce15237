"""Directories of TensorRT-LLM: built engines and its own checkpoints, told from a Hugging Face model by their files.

An engine is ``config.json`` beside ``rank<N>.engine``, one for each rank; NIM keeps it in ``trtllm_engine/``, with the
tokenizer and the model's own config above. A checkpoint of TensorRT-LLM is ``config.json`` beside
``rank<N>.safetensors``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

ENGINE_FOLDER = "trtllm_engine"
BUILD_RECORD = "lading_build.json"  # beside an engine that was built here: of what, by what, for which GPU
_ENGINE = re.compile(rf"((?:{ENGINE_FOLDER}/)?)rank\d+\.engine")
_CHECKPOINT = re.compile(r"rank\d+\.safetensors")


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """What is fixed in a built engine: the release of TensorRT-LLM that runs it, and over how many GPUs it is split.

    ``folder`` is where it lies below the model's directory, "" at its top. ``gpu`` is the model of GPU that it was
    built on, ``name`` what a user called it, "" where nothing tells them. ``version`` is "" where its config does not
    tell.
    """

    folder: str
    version: str
    tp: int
    pp: int
    gpu: str = ""
    name: str = ""


def engine_folder(paths: Iterable[str]) -> str | None:
    """The folder that holds a built engine among a model's files, "" for the top; None where there is no engine."""
    found = {match[1].rstrip("/") for path in paths if (match := _ENGINE.fullmatch(path))}
    return max(found, default=None)


def is_own_checkpoint(paths: Iterable[str]) -> bool:
    """Whether a model's files are a checkpoint of TensorRT-LLM."""
    return any(_CHECKPOINT.fullmatch(path) for path in paths)
