"""Seed 002, Air-Gap Deployment. What its connected phase leaves, the examples of its air-gapped phase find."""

from tests.seeds.example import FREE, SPECIFIC, Example

_SERVE = """
docker run -it --rm --name="$CONTAINER_NAME" \\
--gpus all \\
--shm-size=16GB \\
-p 8000:8000 \\
"""
_FROM_STORE = f"""
export CONTAINER_NAME=nim-airgap
export MODEL_REPO=/path/to/model-repository
export NIM_SERVED_MODEL_NAME=my-model
{_SERVE}-e NIM_MODEL_PATH=/model-repo \\
-e NIM_SERVED_MODEL_NAME \\
-v "$MODEL_REPO:/model-repo" \\
${{NIM_LLM_MODEL_SPECIFIC_IMAGE}}:2.0.1
"""
_FROM_CACHE = f"""{_SERVE}-e NIM_MODEL_PROFILE="$PROFILE_HASH" \\
-v "$AIR_GAP_NIM_CACHE:/opt/nim/.cache" \\
${{NIM_LLM_MODEL_SPECIFIC_IMAGE}}:2.0.1
"""
_FROM_PATH = f"""
export CONTAINER_NAME=nim-airgap
export MODEL_REPO=/path/to/model-repo
{_SERVE}-e NIM_SERVED_MODEL_NAME=my-model \\
-e NIM_MODEL_PATH=/model-repo \\
-v "$MODEL_REPO:/model-repo" \\
${{NIM_LLM_MODEL_FREE_IMAGE}}:2.0.1
"""
_VARIABLES = """
export NGC_API_KEY=your_api_key
export PROFILE_HASH=<your_profile_hash>
export LOCAL_NIM_CACHE="${LOCAL_NIM_CACHE:-$(pwd)/.cache}"
export MODEL_REPO=$(pwd)/path/to/model-repository
mkdir -p "$MODEL_REPO" "$LOCAL_NIM_CACHE"
"""  # its /path/to/model-repository is below this directory here: not everybody may make it below the root

EXAMPLES = [
    Example(
        "Download a Model to Cache",
        """
docker run -it --rm --gpus all \\
-e NGC_API_KEY \\
-v $LOCAL_NIM_CACHE:/opt/nim/.cache \\
${NIM_LLM_MODEL_SPECIFIC_IMAGE}:2.0.1 \\
download-to-cache -p <PROFILE_HASH>
""",
        "ngc",
        SPECIFIC,
    ),
    Example(
        "Create a Model Store",
        """
docker run -it --rm --gpus all \\
-e NGC_API_KEY \\
-v $LOCAL_NIM_CACHE:/opt/nim/.cache \\
-v $MODEL_REPO:/model-repo \\
${NIM_LLM_MODEL_SPECIFIC_IMAGE}:2.0.1 \\
create-model-store -p <PROFILE_HASH> -m /model-repo
""",
        "ngc",
        SPECIFIC,
    ),
    Example("Use a Model Store", _FROM_STORE, "path", SPECIFIC, name="my-model"),
    Example(
        "Use Model-Free NIM with a Remote URI (PVC-Based Redeploy)",
        f"""
export CONTAINER_NAME=nim-airgap-model-free
export NIM_CACHE=/path/to/persistent-nim-cache
export NIM_MODEL_PATH=ngc://org/team/model:tag
{_SERVE}-e NIM_MODEL_PATH \\
-v "$NIM_CACHE:/opt/nim/.cache" \\
${{NIM_LLM_MODEL_FREE_IMAGE}}:2.0.0
""",
        "carried",
        FREE,
        name="org/team/model",
    ),
    Example(
        "Use the Offline Cache",
        f"""
export CONTAINER_NAME=nim-airgap
export AIR_GAP_NIM_CACHE=/path/to/transferred-cache
export PROFILE_HASH=<PROFILE_HASH>
{_FROM_CACHE}""",
        "carried",
        SPECIFIC,
    ),
    Example("Model-Free NIM with a Local Path", _FROM_PATH, "path", FREE, name="my-model"),
    Example(
        "CA Certificate Injection",
        """
docker run --rm --gpus all \\
-v /path/to/corporate-ca.pem:/opt/nim/proxy-ca.pem:ro \\
-e SSL_CERT_FILE=/opt/nim/proxy-ca.pem \\
-e HTTP_PROXY=http://proxy-host:8888 \\
-e HTTPS_PROXY=http://proxy-host:8888 \\
-e NGC_API_KEY \\
${NIM_LLM_MODEL_SPECIFIC_IMAGE}:2.0.1 \\
download-to-cache -p <PROFILE_HASH>
""",
        "ngc",
        SPECIFIC,
        proxied=True,
    ),
    Example(
        "Download and Create a Model Store, 2",
        f"""{_VARIABLES}
docker run -it --rm --gpus all \\
-e NGC_API_KEY \\
-v "$LOCAL_NIM_CACHE:/opt/nim/.cache" \\
${{NIM_LLM_MODEL_SPECIFIC_IMAGE}}:2.0.1 \\
download-to-cache -p "$PROFILE_HASH"
""",
        "ngc",
        SPECIFIC,
    ),
    Example(
        "Download and Create a Model Store, 3",
        f"""{_VARIABLES}
docker run -it --rm --gpus all \\
-e NGC_API_KEY \\
-v "$LOCAL_NIM_CACHE:/opt/nim/.cache" \\
-v "$MODEL_REPO:/model-repo" \\
${{NIM_LLM_MODEL_SPECIFIC_IMAGE}}:2.0.1 \\
create-model-store -p "$PROFILE_HASH" -m /model-repo
""",
        "ngc",
        SPECIFIC,
    ),
    Example("Download and Create a Model Store, 6", _FROM_STORE, "path", SPECIFIC, name="my-model"),
    Example(
        "Use the Offline Cache, 2",
        """
export LOCAL_NIM_CACHE="${LOCAL_NIM_CACHE:-$HOME/.cache/nim}"
export PROFILE_HASH=<your_profile_hash>
mkdir -p "$LOCAL_NIM_CACHE"
docker run --rm --gpus all \\
-v "$LOCAL_NIM_CACHE:/opt/nim/.cache" \\
-e NGC_API_KEY \\
${NIM_LLM_MODEL_SPECIFIC_IMAGE}:2.0.1 \\
download-to-cache -p "$PROFILE_HASH"
""",
        "ngc",
        SPECIFIC,
    ),
    Example(
        "Use the Offline Cache, 5",
        f"""
export AIR_GAP_NIM_CACHE=/path/to/transferred-cache
export CONTAINER_NAME=nim-airgap
export PROFILE_HASH=<your_profile_hash>
{_FROM_CACHE}""",
        "carried",
        SPECIFIC,
    ),
    Example("Model-Free NIM with a Local Path (No Download Needed)", _FROM_PATH, "path", FREE, name="my-model"),
    Example(
        "Network-Connected Phase with Proxy and CA Certificate",
        """
docker run --rm --gpus all \\
--add-host=host.docker.internal:host-gateway \\
-v ~/.mitmproxy/corporate-ca.pem:/opt/nim/proxy-ca.pem:ro \\
-e NIM_SERVER_PORT=8000 \\
-e NIM_SERVED_MODEL_NAME=my-model \\
-e NIM_MODEL_PATH=hf://TinyLlama/TinyLlama-1.1B-Chat-v1.0 \\
-e HTTP_PROXY=http://host.docker.internal:8888 \\
-e HTTPS_PROXY=http://host.docker.internal:8888 \\
-e SSL_CERT_FILE=/opt/nim/proxy-ca.pem \\
${NIM_LLM_MODEL_FREE_IMAGE}:2.0.1
""",
        "hf",
        FREE,
        name="my-model",
        proxied=True,
    ),
]
