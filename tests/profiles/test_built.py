"""Where a built engine runs, and where not and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lading.hardware.inventory import Device, Gpu, Inventory
from lading.model.built_engine import BuiltEngine
from lading.profiles.fit import Engine, Verdict, Wish, fit
from lading.profiles.generate import generate_profiles
from lading.profiles.options import EngineOptions
from lading.units import GIB
from tests.profiles.situations import TINY

BUILT = BuiltEngine("trtllm_engine", "1.2.1", 2, 1, "H100")
FACTS = replace(TINY, built=BUILT, max_model_len=256, precision="fp16")
INSTALLED = Engine("tensorrt_llm", "1.2.1", Device.CUDA, frozenset({"OtherForCausalLM"}))


def machine(gpus: int = 2, name: str = "H100") -> Inventory:
    return Inventory(tuple(Gpu(n, name, 80 * GIB, 80 * GIB, (9, 0)) for n in range(gpus)), 64 * GIB, 64 * GIB, 8)


def names(**asked) -> list[str]:
    return [each.name for each in generate_profiles(FACTS, ["vllm", "sglang"], "m", **asked)]


def test_it_has_one_profile_and_those_that_were_asked_for():
    assert names() == ["tensorrt_llm-fp16-tp2-pp1"]
    assert names(extra_sizes=[(4, 1)]) == ["tensorrt_llm-fp16-tp2-pp1", "tensorrt_llm-fp16-tp4-pp1"]
    assert names(lora=True)[1] == "tensorrt_llm-fp16-tp2-pp1-feat_lora"


def test_it_runs_where_it_was_built_whatever_classes_the_newer_backend_has():
    (profile,) = generate_profiles(FACTS, [], "m")
    found = fit(profile, FACTS, machine(), [INSTALLED], Wish())
    assert found.verdict is Verdict.COMPATIBLE, found.reason
    assert "at 256 tokens" in found.reason


REFUSED = {
    "no engine": ({"engines": []}, "runs with TensorRT-LLM alone", "LADING_BACKEND=tensorrt_llm"),
    "another release": ({"engines": [replace(INSTALLED, version="1.1.0")]}, "was built by TensorRT-LLM 1.2.1", "use TensorRT-LLM 1.2.1"),
    "a release without": ({"engines": [replace(INSTALLED, version="1.3.0")]}, "no longer runs built engines", "serve the checkpoint"),
    "another GPU": ({"inventory": machine(2, "B200")}, "was built for H100, this machine has B200", "build it again"),
    "too few": ({"inventory": machine(1)}, "needs 2 GPUs", None),
    "none": ({"inventory": Inventory((), GIB, GIB, 1)}, "this machine has no GPU", None),
    "another size": ({"tp": 1}, "built for tp2-pp1", "build it again"),
    "LoRA": ({"lora": True}, "no LoRA for built engines", "without LoRA"),
    "more tokens": ({"length": 512}, "512 tokens were asked for, and the engine was built for 256", "--max_seq_len=256"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_does_not_run_on_is_said(case):
    given, reason, remedy = REFUSED[case]
    tp, lora = given.get("tp"), given.get("lora", False)
    wish = Wish(tp=tp, lora=lora, options=EngineOptions(max_model_len=given.get("length")))
    profile = generate_profiles(FACTS, [], "m", extra_sizes=[(tp, 1)] if tp else [], lora=lora)[-1]
    found = fit(profile, FACTS, given.get("inventory", machine()), given.get("engines", [INSTALLED]), wish)
    assert found.verdict is Verdict.INCOMPATIBLE
    assert reason in found.reason
    assert remedy is None or remedy in str(found.remedy)


def test_what_its_files_do_not_tell_is_no_reason():
    facts = replace(FACTS, built=BuiltEngine("", "", 2, 1))
    (profile,) = generate_profiles(facts, [], "m")
    for version in ("1.1.0", "of any version known"):
        found = fit(profile, facts, machine(2, "B200"), [replace(INSTALLED, version=version)], Wish())
        assert found.verdict is Verdict.COMPATIBLE, found.reason
