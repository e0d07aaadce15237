"""Signatures of bundles in the format of OpenSSF Model Signing, with elliptic curve keys.

The format is a Sigstore bundle (v0.3, JSON) around a DSSE envelope around an in-toto statement with the predicate
``https://model_signing/signature/v1.0``: names and SHA-256 of all files, and one digest over those in their order. See
https://github.com/ossf/model-signing-spec and https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md.

The project's own package signs and verifies directories that it hashes itself; here the digests are known, and enforced
on the bytes as they come. So the envelope is written and read here, with ``cryptography`` alone; ``model_signing verify
key`` accepts it for the unpacked bundle. Signatures are deterministic (RFC 6979): equal bundles are equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lading.bundle.layout import SIGNATURE
from lading.digest import Digest
from lading.errors import ContentError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_SUBJECT = "lading-bundle"
_MOST_KEY_BYTES = 64 << 10
_TOLD = 300  # characters of an error that may quote what it was given
_KEYS = (
    "`openssl ecparam -name prime256v1 -genkey -noout -out key.pem` and `openssl ec -in key.pem -pubout` make a pair"
)


class SignatureRefused(ContentError):
    """A bundle is not signed by the key, or says other than what was signed."""


def sign(contents: Mapping[str, Digest], key_path: Path) -> bytes:
    """The signature of ``contents`` (SHA-256 by name) with the private key at ``key_path``, for ``model.sig``.

    Raises UsageError for a key that cannot be used, or where ``cryptography`` is not installed.
    """
    key = _private_key(key_path)
    payload = json.dumps(_statement(contents), separators=(",", ":"), sort_keys=True).encode()
    signature = key.sign(_encoded(payload), _algorithm(key.curve, deterministic=True))
    told = {
        "mediaType": _MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": _fingerprint(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def verify(signature: bytes, contents: Mapping[str, Digest], key_path: Path) -> str:
    """The fingerprint of the public key at ``key_path``, which signed exactly ``contents``.

    Raises SignatureRefused where it did not, UsageError for a key that cannot be used.
    """
    key = _public_key(key_path)
    try:
        payload = _verified_payload(json.loads(signature), key)
        signed = _digests(json.loads(payload))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise SignatureRefused(f"the bundle's signature cannot be understood: {repr(error)[:_TOLD]}") from error
    if signed != contents:
        differing = sorted(name for name in signed.keys() | contents.keys() if signed.get(name) != contents.get(name))
        raise SignatureRefused(
            f"the bundle is not what was signed: {', '.join(differing[:3])[:_TOLD]} differ, {len(differing)} in all",
            remedy="do not use it; ask whoever made it for another copy",
        )
    return _fingerprint(key)


def require_key(key_path: Path, *, is_private: bool) -> None:
    """Raise UsageError unless the file holds a key that can be used."""
    (_private_key if is_private else _public_key)(key_path)


def _statement(contents: Mapping[str, Digest]) -> dict[str, Any]:
    names = sorted(contents, key=lambda name: PurePosixPath(name).parts)
    resources = [{"name": name, "algorithm": "sha256", "digest": contents[name].hex} for name in names]
    return {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": _SUBJECT, "digest": {"sha256": _root(resources)}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE],
            },
            "resources": resources,
        },
    }


def _root(resources: list[dict[str, str]]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources)).hexdigest()


def _verified_payload(told: dict[str, Any], key: ec.EllipticCurvePublicKey) -> bytes:
    from cryptography.exceptions import InvalidSignature

    if told["mediaType"] != _MEDIA_TYPE:
        raise ValueError(f"media type {told['mediaType']}")
    hint = told["verificationMaterial"]["publicKey"].get("hint")
    if hint != _fingerprint(key):
        raise SignatureRefused(
            f"the bundle is signed with the key {str(hint)[:64]!r}, not with {_fingerprint(key)}",
            remedy="name the public key of whoever signed it, if you trust them",
        )
    envelope = told["dsseEnvelope"]
    if envelope["payloadType"] != _PAYLOAD_TYPE:
        raise ValueError(f"payload type {envelope['payloadType']}")
    payload = b64decode(envelope["payload"], validate=True)
    (signature,) = envelope["signatures"]
    try:
        key.verify(b64decode(signature["sig"], validate=True), _encoded(payload), _algorithm(key.curve))
    except InvalidSignature:
        raise SignatureRefused(
            "the bundle's signature is wrong: it was forged, or damaged on the way",
            remedy="do not use it; ask whoever made it for another copy",
        ) from None
    return payload


def _digests(statement: dict[str, Any]) -> dict[str, Digest]:
    """What a statement says of each file. ValueError, KeyError, TypeError for one of another kind."""
    if (statement["_type"], statement["predicateType"]) != (_STATEMENT_TYPE, _PREDICATE_TYPE):
        raise ValueError(f"a statement of {statement['_type']} about {statement['predicateType']}")
    predicate = statement["predicate"]
    if predicate["serialization"]["method"] != "files":
        raise ValueError(f"files are serialized by {predicate['serialization']['method']}")
    resources = predicate["resources"]
    found = {each["name"]: Digest(each["algorithm"], each["digest"]) for each in resources}
    (subject,) = statement["subject"]
    if len(found) != len(resources) or subject["digest"]["sha256"] != _root(resources):
        raise ValueError("the digest over all files is not theirs")
    return found


def _encoded(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _algorithm(curve: ec.EllipticCurve, *, deterministic: bool = False) -> ec.ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    by_bits = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
    return ec.ECDSA(by_bits[curve.key_size], deterministic_signing=deterministic)


def _fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the public key as PEM, as the format names keys."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    data = _key_bytes(path)
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, None)
    except TypeError:
        raise _unusable(path, "it is encrypted", "decrypt it first: `openssl ec -in KEY -out PLAIN`") from None
    except ValueError:
        raise _unusable(path, "it is no private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _unusable(path, "it is no elliptic curve key")
    _require_curve(path, key.curve)
    return key


def _public_key(path: Path) -> ec.EllipticCurvePublicKey:
    data = _key_bytes(path)
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(data)
    except ValueError:
        raise _unusable(path, "it is no public key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise _unusable(path, "it is no elliptic curve key")
    _require_curve(path, key.curve)
    return key


def _require_curve(path: Path, curve: ec.EllipticCurve) -> None:
    if curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
        raise _unusable(path, f"its curve is {curve.name}, not P-256, P-384 or P-521")


def _key_bytes(path: Path) -> bytes:
    """The bytes of a key's file, which shall be small."""
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "signatures need the package cryptography, which is not installed", remedy='pip install "lading[signing]"'
        ) from error
    try:
        with path.open("rb") as file:
            return file.read(_MOST_KEY_BYTES)
    except OSError as error:
        raise UsageError(f"the key {path} cannot be read: {error.strerror}", remedy=_KEYS) from error


def _unusable(path: Path, why: str, remedy: str = _KEYS) -> UsageError:
    return UsageError(f"the key {path} cannot be used: {why}", remedy=remedy)
