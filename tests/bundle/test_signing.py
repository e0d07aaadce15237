"""Signatures, with the real ``model_signing`` on the other side."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lading.bundle.intake import ImportOptions
from lading.bundle.layout import contents
from lading.bundle.signing import SignatureRefused, sign, verify
from lading.cache.root import CacheRoot
from lading.digest import Digest
from lading.errors import UsageError
from lading.events import Event, Note
from tests.bundle.caches import CONTENT, ONE, Keys, cache_at, content_of, create, filled, opened, take

CURVES = ["prime256v1", "secp384r1", "secp521r1"]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> CacheRoot:
    return filled(tmp_path_factory.mktemp("origin"))


@pytest.fixture(scope="module", params=CURVES)
def keys(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys.made(tmp_path_factory.mktemp("keys"), curve=request.param)


def unpacked(path: Path) -> Path:
    directory = path.parent / "unpacked"
    directory.mkdir()
    subprocess.run(["tar", "-C", directory, "-xf", path], check=True)
    return directory


def model_signing(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "model_signing", *arguments], capture_output=True, text=True)


def test_a_signed_bundle_is_taken_with_its_key_and_the_real_tool_agrees(
    origin: CacheRoot, keys: Keys, tmp_path: Path
) -> None:
    create(origin, tmp_path / "b.tar", sign_key=keys.private)
    cache = cache_at(tmp_path / "cache")
    done = take(tmp_path / "b.tar", cache, options=ImportOptions(verify_key=keys.public))
    assert done.plan.signed_by
    assert content_of(cache, ONE) == CONTENT[ONE]
    directory = unpacked(tmp_path / "b.tar")
    check = ("verify", "key", directory, "--signature", directory / "model.sig", "--public_key", keys.public)
    real = model_signing(*check)
    assert (real.returncode, real.stdout) == (0, "Verification succeeded\n"), real.stderr
    (directory / "lading-bundle.json").write_text("{}")
    assert model_signing(*check).returncode != 0


def test_what_the_real_tool_signs_is_accepted(origin: CacheRoot, keys: Keys, tmp_path: Path) -> None:
    create(origin, tmp_path / "b.tar")
    directory = unpacked(tmp_path / "b.tar")
    signature = tmp_path / "model.sig"
    done = model_signing("sign", "key", directory, "--private_key", keys.private, "--signature", signature)
    assert done.returncode == 0, done.stderr
    head, _ = opened(tmp_path / "b.tar")
    assert verify(signature.read_bytes(), contents(head), keys.public)


def test_signed_bundles_are_the_same_bytes_each_time(origin: CacheRoot, keys: Keys, tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        create(origin, tmp_path / name, sign_key=keys.private)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_key_refuses_what_it_did_not_sign_before_anything_enters(
    origin: CacheRoot, keys: Keys, tmp_path: Path
) -> None:
    create(origin, tmp_path / "plain.tar")
    create(origin, tmp_path / "other.tar", sign_key=Keys.made(tmp_path, "other").private)
    cache = cache_at(tmp_path / "cache")
    for name, words in (("plain.tar", "is not signed"), ("other.tar", "is signed with the key")):
        with pytest.raises(SignatureRefused, match=words) as refused:
            take(tmp_path / name, cache, options=ImportOptions(verify_key=keys.public))
        assert refused.value.exit_code == 4
    assert list(cache.store.digests()) == []
    assert list(cache.index.entries()) == []


def test_without_a_key_a_signed_bundle_is_taken_and_it_is_said(origin: CacheRoot, keys: Keys, tmp_path: Path) -> None:
    create(origin, tmp_path / "b.tar", sign_key=keys.private)
    events: list[Event] = []
    take(tmp_path / "b.tar", cache_at(tmp_path / "cache"), report=events.append)
    assert [each for each in events if isinstance(each, Note)] == [
        Note("the bundle is signed; its signature was not checked: --verify-key KEY.pub does")
    ]


CONTENTS = {"a": Digest.of(b"a"), "b": Digest.of(b"b")}


def resigned(signature: bytes, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> bytes:
    """The signature with a changed envelope or statement."""
    told = json.loads(signature)
    statement = json.loads(b64decode(told["dsseEnvelope"]["payload"]))
    change(told, statement)
    if isinstance(told.get("dsseEnvelope"), dict) and "payload" in told["dsseEnvelope"]:
        told["dsseEnvelope"]["payload"] = b64encode(json.dumps(statement).encode()).decode()
    return json.dumps(told).encode()


CHANGES: dict[str, Callable[[dict[str, Any], dict[str, Any]], object]] = {
    "another digest": lambda _, said: said["predicate"]["resources"][0].update(digest="0" * 64),
    "one file less": lambda _, said: said["predicate"]["resources"].pop(),
    "another media type": lambda told, _: told.update(mediaType="application/json"),
    "another payload type": lambda told, _: told["dsseEnvelope"].update(payloadType="text/plain"),
    "no signature": lambda told, _: told["dsseEnvelope"].update(signatures=[]),
    "a signature that is no base64": lambda told, _: told["dsseEnvelope"]["signatures"][0].update(sig="!!"),
    "a signature that is no signature": lambda told, _: told["dsseEnvelope"]["signatures"][0].update(sig="AAAA"),
    "no key named": lambda told, _: told["verificationMaterial"].pop("publicKey"),
    "no envelope": lambda told, _: told.pop("dsseEnvelope"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_forged_signature_is_refused(
    change: Callable[[dict[str, Any], dict[str, Any]], object], tmp_path: Path
) -> None:
    keys = Keys.made(tmp_path)
    signature = sign(CONTENTS, keys.private)
    verify(signature, CONTENTS, keys.public)
    with pytest.raises(SignatureRefused):
        verify(resigned(signature, change), CONTENTS, keys.public)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 100_000, b"{}", b"null"], ids=range(6))
def test_what_is_no_signature_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(SignatureRefused):
        verify(data, CONTENTS, Keys.made(tmp_path).public)


def test_other_contents_than_the_signed_ones_are_named(tmp_path: Path) -> None:
    keys = Keys.made(tmp_path)
    with pytest.raises(SignatureRefused, match="b, c differ, 2 in all"):
        verify(sign(CONTENTS, keys.private), {"a": Digest.of(b"a"), "c": Digest.of(b"b")}, keys.public)


def statement_of(tmp_path: Path, keys: Keys, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A right signature by the key of a statement that is not ours."""
    from lading.bundle import signing

    payload = json.loads(b64decode(json.loads(sign(CONTENTS, keys.private))["dsseEnvelope"]["payload"]))
    change(payload)
    data = json.dumps(payload).encode()
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(keys.private.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    kind = b"application/vnd.in-toto+json"
    signed = key.sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(data), data), ec.ECDSA(hashes.SHA256()))
    told = json.loads(signing.sign(CONTENTS, keys.private))
    told["dsseEnvelope"]["payload"] = b64encode(data).decode()
    told["dsseEnvelope"]["signatures"][0]["sig"] = b64encode(signed).decode()
    return json.dumps(told).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.update(predicateType="https://slsa.dev/provenance/v1"),
        lambda said: said.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda said: said["predicate"]["serialization"].update(method="shards"),
        lambda said: said["subject"][0]["digest"].update(sha256="0" * 64),
        lambda said: said["predicate"]["resources"].append(said["predicate"]["resources"][0]),
        lambda said: said["predicate"]["resources"][0].update(algorithm="blake3"),
        lambda said: said.pop("predicate"),
    ],
    ids=range(7),
)
def test_a_statement_about_something_else_is_refused_though_the_key_signed_it(
    change: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    keys = Keys.made(tmp_path)
    verify(statement_of(tmp_path, keys, lambda _: None), CONTENTS, keys.public)
    with pytest.raises(SignatureRefused):
        verify(statement_of(tmp_path, keys, change), CONTENTS, keys.public)


def made(directory: Path, *arguments: str) -> Path:
    path = directory / "made.pem"
    subprocess.run(["openssl", *arguments, "-out", path], check=True, capture_output=True)
    return path


def test_keys_that_cannot_be_used_are_usage_errors(tmp_path: Path) -> None:
    keys = Keys.made(tmp_path)
    odd = Keys.made(tmp_path, "odd", curve="secp256k1")
    rsa = made(tmp_path, "genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:2048")
    rsa_public = tmp_path / "rsa.pub"
    subprocess.run(["openssl", "rsa", "-in", rsa, "-pubout", "-out", rsa_public], check=True, capture_output=True)
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", keys.private, "-passout", "pass:secret", "-out", locked], check=True
    )
    for path, words in (
        (tmp_path / "none", "cannot be read: No such file"),
        (keys.public, "no private key"),
        (odd.private, "its curve is secp256k1"),
        (rsa, "no elliptic curve key"),
        (locked, "it is encrypted"),
    ):
        with pytest.raises(UsageError, match=words):
            sign(CONTENTS, path)
    for path, words in (
        (keys.private, "no public key"),
        (odd.public, "its curve is secp256k1"),
        (rsa_public, "no elliptic curve key"),
    ):
        with pytest.raises(UsageError, match=words):
            verify(b"{}", CONTENTS, path)


def test_where_cryptography_is_not_installed_the_extra_is_named(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from pathlib import Path\nfrom lading.bundle.signing import sign\nfrom lading.errors import UsageError\n"
        "try: sign({}, Path('/dev/null'))\nexcept UsageError as error: print(error.remedy)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == 'pip install "lading[signing]"\n'
