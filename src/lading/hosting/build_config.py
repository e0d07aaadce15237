"""What an engine is built with: a YAML file of TensorRT-LLM's own option names, checked before anything is started.

The options are those of ``convert_checkpoint.py`` (how weights are typed and split, which the engine keeps) and of
``trtllm-build`` (for which sizes it is made), as releases 0.17 to 1.2 have them. Each is a flag of its program under
the same name. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from lading.errors import UsageError
from lading.manifests.document import ManifestError, Node, parse_document
from lading.model.facts import ModelFacts

_WHOLE = re.compile(r"\d{1,12}")
_YES, _NO = ("true", "yes", "on", "enable"), ("false", "no", "off", "disable")
Value = int | str | bool


class Program(StrEnum):
    """Which of the two programs an option is for."""

    CONVERT = "convert"
    BUILD = "build"


@dataclass(frozen=True, slots=True)
class Count:
    """A whole number, ``least`` or more."""

    least: int = 1

    def read(self, text: str) -> Value | None:
        """The value; None for what is none."""
        return int(text) if _WHOLE.fullmatch(text) and int(text) >= self.least else None

    def __str__(self) -> str:
        return f"a whole number, {self.least} or more"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]

    def read(self, text: str) -> Value | None:
        """The word; None for any other."""
        return text if text in self.words else None

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"


@dataclass(frozen=True, slots=True)
class Toggle:
    """A plugin or feature that is written ``enable`` or ``disable``; YAML's own words for it are taken too."""

    def read(self, text: str) -> Value | None:
        """``enable`` or ``disable``; None for what is neither."""
        return "enable" if text.lower() in _YES else "disable" if text.lower() in _NO else None

    def __str__(self) -> str:
        return "enable or disable"


@dataclass(frozen=True, slots=True)
class Switch:
    """A flag without a value."""

    def read(self, text: str) -> Value | None:
        """Whether the flag is given; None for what is neither yes nor no."""
        return True if text.lower() in _YES else False if text.lower() in _NO else None

    def __str__(self) -> str:
        return "true or false"


Kind = Count | Choice | Toggle | Switch

_PLUGIN = Choice(("auto", "float16", "bfloat16", "float32", "disable"))
_CONVERT: dict[str, Kind] = {
    "dtype": Choice(("auto", "float16", "bfloat16", "float32")),
    "tp_size": Count(),
    "pp_size": Count(),
    "use_weight_only": Switch(),
    "weight_only_precision": Choice(("int8", "int4")),
}
_BUILD: dict[str, Kind] = {
    "max_batch_size": Count(),
    "max_input_len": Count(),
    "max_seq_len": Count(),
    "max_num_tokens": Count(),
    "opt_num_tokens": Count(),
    "max_beam_width": Count(),
    "max_encoder_input_len": Count(),
    "max_prompt_embedding_table_size": Count(0),
    "tokens_per_block": Count(),
    "workers": Count(),
    "kv_cache_type": Choice(("continuous", "paged", "disabled")),
    "logits_dtype": Choice(("float16", "float32")),
    "profiling_verbosity": Choice(("layer_names_only", "detailed", "none")),
    "gemm_plugin": Choice(("auto", "float16", "bfloat16", "float32", "fp8", "disable")),
    "gpt_attention_plugin": _PLUGIN,
    "nccl_plugin": _PLUGIN,
    "context_fmha": Toggle(),
    "use_paged_context_fmha": Toggle(),
    "use_fp8_context_fmha": Toggle(),
    "remove_input_padding": Toggle(),
    "reduce_fusion": Toggle(),
    "user_buffer": Toggle(),
    "multiple_profiles": Toggle(),
    "gather_context_logits": Switch(),
    "gather_generation_logits": Switch(),
    "strip_plan": Switch(),
    "weight_sparsity": Switch(),
    "weight_streaming": Switch(),
    "fast_build": Switch(),
    "monitor_memory": Switch(),
}
OPTIONS: Mapping[str, tuple[Program, Kind]] = {
    **{name: (Program.CONVERT, kind) for name, kind in _CONVERT.items()},
    **{name: (Program.BUILD, kind) for name, kind in _BUILD.items()},
}
"""Every key of the file: the program that it is a flag of, and the values that it takes."""


@dataclass(frozen=True, slots=True)
class BuildConfig:
    """The options of one build, as the file ``where`` gives them; ``lines`` say where each stands, from 1."""

    where: str
    values: Mapping[str, Value]
    lines: Mapping[str, int]

    @property
    def tp(self) -> int:
        """Over how many ranks each layer is split."""
        return self.number("tp_size", 1)

    @property
    def pp(self) -> int:
        """In how many stages the layers are."""
        return self.number("pp_size", 1)

    def number(self, name: str, unset: int) -> int:
        """The number of an option; ``unset`` where the file does not have it."""
        return int(self.values.get(name, unset))

    def tokens(self, program: Program) -> tuple[str, ...]:
        """The flags of one of the two programs, in the file's order."""
        flags: list[str] = []
        for name, value in self.values.items():
            if OPTIONS[name][0] is program and value is not False:
                flags += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return tuple(flags)

    def error(self, name: str, what: str, remedy: str | None = None) -> UsageError:
        """The error that names the line of an option."""
        return UsageError(f"{self.where}, line {self.lines.get(name, 1)}: {what}", remedy=remedy)


def read_build_config(data: bytes, where: str) -> BuildConfig:
    """The options in a YAML (or JSON) file; raises UsageError, with the line, for what no build can be asked for."""
    try:
        root = parse_document(data, where)
        pairs = root.mapping("a build config")
        values = {name: _value(name, node) for name, node in pairs.items()}
    except ManifestError as error:
        raise UsageError(error.message, remedy=error.remedy) from None
    config = BuildConfig(where, values, {name: node.line for name, node in pairs.items()})
    _check_sizes(config)
    return config


def _value(name: str, node: Node) -> Value:
    if name not in OPTIONS:
        near = get_close_matches(name, OPTIONS, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"known are: {', '.join(OPTIONS)}"
        raise node.error(f"{name!r} is no option of a build", remedy)
    kind = OPTIONS[name][1]
    text = node.value if isinstance(node.value, str) else None
    value = None if text is None else kind.read(text)
    if value is None:
        shown = "something nested" if isinstance(node.value, dict | tuple) else repr(text or "")
        raise node.error(f"{name} is {shown}", remedy=f"{name} takes {kind}")
    return value


_AT_MOST = (
    ("max_input_len", "max_seq_len", "input is a part of the whole sequence"),
    ("opt_num_tokens", "max_num_tokens", "the engine is tuned for no more tokens than it takes"),
)


def _check_sizes(config: BuildConfig) -> None:
    for less, more, why in _AT_MOST:
        if less in config.values and more in config.values and config.number(less, 0) > config.number(more, 0):
            what = f"{less} {config.values[less]} is more than {more} {config.values[more]}: {why}"
            raise config.error(less, what, f"lower {less}, or raise {more}")
    if "weight_only_precision" in config.values and not config.values.get("use_weight_only"):
        raise config.error("weight_only_precision", "weight_only_precision needs use_weight_only: true")


def check_split(config: BuildConfig, facts: ModelFacts) -> None:
    """Raises UsageError where TensorRT-LLM does not split the model so."""
    heads, layers = facts.attention_heads, facts.layers
    if heads and heads % config.tp:
        splits = ", ".join(str(tp) for tp in (1, 2, 4, 8, 16) if heads % tp == 0)
        what = f"tp_size {config.tp}: {heads} attention heads do not split over {config.tp} ranks"
        raise config.error("tp_size", what, f"tp_size of {splits}")
    if layers and config.pp > layers:
        raise config.error("pp_size", f"pp_size {config.pp}: {layers} layers make no {config.pp} pipeline stages")


def length_note(config: BuildConfig, facts: ModelFacts) -> str | None:
    """What is to be said of a length that the model was not made for; the builder takes it."""
    asked, longest = config.number("max_seq_len", 0), facts.max_model_len
    if not longest or asked <= longest:
        return None
    return f"max_seq_len {asked} is more than the {longest} tokens that the model was made for: quality may suffer"
