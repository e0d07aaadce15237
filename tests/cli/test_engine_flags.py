"""Which words of a command line are Lading's, which the engine's, and which are slips."""

import pytest

from lading.cli.engine_flags import parse_engine, split_engine_flags
from lading.errors import UsageError


@pytest.mark.parametrize(
    ("line", "own", "engine"),
    [
        ("/m --max-model-len 32K", "/m", "--max-model-len 32K"),
        ("--max_model_len=32K /m --format json", "/m --format json", "--max_model_len=32K"),
        ("--enforce-eager /m", "/m", "--enforce-eager"),
        ("/m --trust-remote-code --gpus 2xL4", "/m --gpus 2xL4", "--trust-remote-code"),
        ("--trust-remote-code hf://a/b", "hf://a/b", "--trust-remote-code"),
        ("--swap-space 4 /m", "/m", "--swap-space 4"),
        ("/m --swap-space 4 --served-model-name a b", "/m", "--swap-space 4 --served-model-name a b"),
        ("--chat-template /t.jinja /m", "/m", "--chat-template /t.jinja"),
        ("--chat-template /t.jinja --model /m", "--model /m", "--chat-template /t.jinja"),
        ("--swap-space=4 /m", "/m", "--swap-space=4"),
        ("--engine sglang --tp 2 /m", "--engine sglang /m", "--tp 2"),
        ("-h", "-h", ""),
    ],
)
def test_words_are_told_apart(line: str, own: str, engine: str) -> None:
    found = split_engine_flags(line.split())
    assert (" ".join(found.own), " ".join(found.engine)) == (own, engine)


def test_flags_that_nothing_reads_are_named() -> None:
    assert split_engine_flags(["/m", "--swap-space", "4", "--max-num-seqs", "8"]).unread == ("--swap-space",)


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("/m --formta json", "--format"),
        ("/m --gpu 2xL4", "--gpus"),
        ("/m --engine sglang --max-model-len 64", "--context-length"),
        ("/m --tp 2", "--tensor-parallel-size"),
        ("/m --max_seq_len 64", "--engine tensorrt_llm"),
    ],
)
def test_what_looks_like_a_slip_is_refused_with_what_was_meant(line: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        split_engine_flags(line.split())
    assert remedy in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("text", "engine"),
    [
        ("vllm", ("vllm", "")), ("vllm==0.19.0", ("vllm", "0.19.0")), ("vLLM == v0.19.0", ("vllm", "0.19.0")),
        ("vllm==0.19.1.dev12+g1a2b", ("vllm", "0.19.1.dev12+g1a2b")), ("trtllm==1.1.0rc3", ("tensorrt_llm", "1.1.0rc3")),
    ],
)  # fmt: skip
def test_an_engine_is_named_with_or_without_a_version(text: str, engine: tuple[str, str]) -> None:
    assert parse_engine(text) == engine


@pytest.mark.parametrize("text", ["vllm==", "vllm==newest", "vllm==0.19.*", "vllm=0.19.0", "vllm>=0.19", "", "ollama"])
def test_what_is_no_engine_or_no_version_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--engine"):
        parse_engine(text)
