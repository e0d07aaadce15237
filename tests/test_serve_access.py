"""``lading serve`` behind TLS and API keys, as an operator sets it up and a client uses it."""

from __future__ import annotations

import os

import openai
import pytest

from tests.gateway.certificates import Authority
from tests.models import tiny_model, write_model
from tests.program import environment, run, running
from tests.simulators.vllm_program import install


@pytest.fixture
def model(tmp_path):
    (tmp_path / "home").mkdir()
    return str(write_model(tmp_path / "model", tiny_model()))


@pytest.fixture
def environ(tmp_path):
    engine = install(tmp_path / "engine")
    return environment(tmp_path, PATH=f"{engine}:{os.environ['PATH']}")


def test_a_client_with_certificate_and_key_is_served_over_ipv6_and_ipv4(tmp_path, model, environ):
    authority = Authority()
    files = authority.server(tmp_path / "tls", clients=authority)
    made = run(["api-key", "alice"], environ)
    (tmp_path / "keys").write_text(made.stdout)
    environ |= {
        "LADING_HOST": "::",
        "NIM_SSL_MODE": "mtls",
        "NIM_SSL_KEY_PATH": str(files.key),
        "NIM_SSL_CERT_PATH": str(files.certs),
        "NIM_SSL_CA_CERTS_PATH": str(files.ca_certs),
        "LADING_API_KEYS_FILE": str(tmp_path / "keys"),
    }
    context = authority.client(tmp_path, "alice")
    with running([model, "--served-model-name", "m"], environ, tmp_path / "log") as program:
        program.wait_for_line("] ready: ")
        assert "NIM_SSL_CERT_PATH is deprecated" in program.output
        assert "listening on https://[::]:" in program.output
        program.port = int(program.output.partition("listening on https://[::]:")[2].split()[0])
        url = f"https://localhost:{program.port}/v1"
        http = openai.DefaultHttpxClient(verify=context, trust_env=False)
        with openai.OpenAI(base_url=url, api_key=made.stderr.strip(), http_client=http, max_retries=0) as client:
            answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content == "Hello"
        assert made.stderr.strip() not in program.output
        assert program.stop() == 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"NIM_SSL_MODE": "TLS"}, "NIM_SSL_KEY_PATH"),
        ({"NIM_SSL_MODE": "TLS", "NIM_SSL_KEY_PATH": "/none", "NIM_SSL_CERTS_PATH": "/none"}, "/none: No such file"),
        ({"LADING_API_KEYS_FILE": "/none"}, "/none: No such file"),
        ({"NIM_SSL_MODE": "SSL"}, "NIM_SSL_MODE"),
    ],
    ids=["no key named", "no file", "no keys", "no mode"],
)
def test_what_cannot_be_used_ends_the_start_with_one_sentence(changes, named, model, environ):
    done = run([model], environ | changes)
    assert done.returncode == 2
    assert named in done.stderr
    assert "try:" in done.stderr
    assert "Traceback" not in done.stderr


def test_curl_is_invited_over_https(tmp_path, model, environ):
    files = Authority().server(tmp_path / "tls")
    environ |= {"NIM_SSL_MODE": "TLS", "NIM_SSL_KEY_PATH": str(files.key), "NIM_SSL_CERTS_PATH": str(files.certs)}
    with running([model], environ, tmp_path / "log") as program:
        program.wait_for_line("try: curl https://localhost:")
