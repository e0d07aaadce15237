"""How engines spell what Lading asks: by version, and refused where there is no flag."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from lading.backends.members import BACKENDS
from lading.backends.spelling import spell
from lading.errors import UsageError

TABLE = json.loads((files("lading.backends") / "spellings.json").read_text())


@pytest.mark.parametrize(
    ("family", "version", "what", "tokens"),
    [
        ("vllm", "0.33.0", "no_cuda_graph", "--enforce-eager"),
        ("sglang", "0.5.13", "no_cuda_graph", "--disable-cuda-graph"),
        ("sglang", "0.5.14", "no_cuda_graph", "--cuda-graph-backend-decode disabled --cuda-graph-backend-prefill disabled"),
        ("sglang", "", "no_cuda_graph", "--cuda-graph-backend-decode disabled --cuda-graph-backend-prefill disabled"),
        ("sglang", "unknown", "pipeline_parallel", "--pp-size 7"),
        ("sglang", "0.4.7.post1", "pipeline_parallel", "--pp-size 7"),
        ("tensorrt_llm", "1.1.0rc3", "max_model_len", "--max_seq_len 7"),
    ],
)  # fmt: skip
def test_the_row_of_the_version_counts(family, version, what, tokens):
    assert " ".join(spell(family, version, what, 7)) == tokens


@pytest.mark.parametrize(
    ("family", "version", "what", "remedy"),
    [
        ("sglang", "0.4.6", "pipeline_parallel", "since 0.4.7"),
        ("tensorrt_llm", "1.2.1", "no_cuda_graph", "cuda_graph_config: null"),
    ],
)
def test_what_has_no_flag_is_refused_with_what_to_do_instead(family, version, what, remedy):
    with pytest.raises(UsageError, match=f"NIM_X asks for what {family} {version} has no flag for") as caught:
        spell(family, version, what, 1, origin="NIM_X")
    assert remedy in str(caught.value.remedy)


def test_every_engine_answers_to_every_portable_wish():
    assert set(TABLE) - {"note"} == set(BACKENDS)
    assert all(set(TABLE["vllm"]) <= set(TABLE[family]) for family in BACKENDS)


def test_a_flag_that_lading_reads_is_spelled_as_it_reads_it():
    for family, backend in BACKENDS.items():
        tokens = [*spell(family, "", "tensor_parallel", 2), *spell(family, "", "pipeline_parallel", 3)]
        tokens += [*spell(family, "", "max_model_len", 64), *spell(family, "", "max_sequences", 5)]
        wish = backend.read_flags([*tokens, *spell(family, "", "gpu_share", 0.5)]).wish
        assert (wish.tp, wish.pp) == (2, 3)
        options = wish.options
        assert (options.max_model_len, options.max_sequences, options.gpu_utilization) == (64, 5, 0.5)
        assert options.others == ""
