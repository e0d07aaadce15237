"""Seed 003, NIM Model Profiles and Selection on Kubernetes: the containers, as their YAML has them."""

from tests.seeds.example import SPECIFIC, Example

_CONTAINER = """
containers:
- name: nim
  image: nvcr.io/nim/meta/llama-3.1-8b-instruct:1.7.3
  ports:
  - containerPort: 8000
  env:
  - name: NGC_API_KEY
    valueFrom:
      secretKeyRef:
        name: ngc-secret
        key: NGC_API_KEY
{}
  volumeMounts:
  - name: nim-cache
    mountPath: /opt/nim/.cache
"""
_BY_ID = "70edb8bb9f8511ce2ea195e3caebcc3c7191dc27fea0c8d4acf9c0d9a69e43cd"


def _deployment(more: str) -> str:
    return _CONTAINER.format(more.strip("\n"))


EXAMPLES = [
    Example(
        "List Available Profiles",
        """
containers:
- name: list-profiles
  image: nvcr.io/nim/meta/llama-3.1-8b-instruct:1.7.3
  command: ["list-model-profiles"]
  volumeMounts:
  - name: nim-cache
    mountPath: /opt/nim/.cache
""",
        "carried",  # it has no key: what a deployment left on the volume is looked at
        SPECIFIC,
    ),
    Example("Deploy with Automatic Profile Selection", _deployment(""), "ngc", SPECIFIC),
    Example(
        "Deploy with Explicit Profile Selection, by friendly name",
        _deployment("""
  - name: NIM_MODEL_PROFILE
    value: "vllm-fp8-tp1-pp1"
"""),
        "ngc",
        SPECIFIC,
        engine="--tensor-parallel-size 1",
    ),
    Example(
        "Deploy with Explicit Profile Selection, by profile ID",
        _deployment(f"""
  - name: NIM_MODEL_PROFILE
    value: "{_BY_ID}"
"""),
        "ngc",
        SPECIFIC,
        engine="--tensor-parallel-size 1",
    ),
    Example(
        "Deploy with LoRA Support",
        _deployment("""
  - name: NIM_MODEL_PROFILE
    value: "vllm-bf16-tp1-pp1-feat_lora"
  - name: NIM_PEFT_SOURCE
    value: "/lora-adapters"
  - name: NIM_PEFT_REFRESH_INTERVAL
    value: "600"
"""),
        "ngc",
        SPECIFIC,
        engine="--enable-lora",
    ),
    Example(
        "Multi-GPU Tensor Parallelism",
        _deployment("""
  - name: NIM_MODEL_PROFILE
    value: "vllm-fp8-tp4-pp1"
"""),
        "ngc",
        SPECIFIC,
        engine="--tensor-parallel-size 4",
    ),
    Example(
        "Low Memory: Reduce Context Length",
        _deployment("""
  - name: NIM_MODEL_PROFILE
    value: "vllm-bf16-tp1-pp1"
  args:
  - "--max-model-len"
  - "4096"
"""),
        "ngc",
        SPECIFIC,
        engine="--max-model-len 4096",
    ),
    Example(
        "Override Profile Settings with vLLM CLI Args",
        _deployment("""
  - name: NIM_MODEL_PROFILE
    value: "vllm-bf16-tp2-pp1"
  args:
  - "--tensor-parallel-size"
  - "4"
  - "--max-model-len"
  - "8192"
  - "--enable-lora"
"""),
        "ngc",
        SPECIFIC,
        engine="--tensor-parallel-size 4 --max-model-len 8192 --enable-lora",
    ),
]
