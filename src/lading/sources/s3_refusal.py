"""Why S3 said no: the error for an answer that is no answer, by its status and S3's error code, never by its text.

Pure. S3's own sentences quote keys and signatures, so they are not shown.
"""

from __future__ import annotations

from dataclasses import dataclass

from lading.errors import (
    ContentError,
    FileNotFoundAtSource,
    LadingError,
    ModelNotFound,
    SourceError,
    SourceProtocolError,
    Unauthorized,
)
from lading.sources.interface import LIST_AGAIN
from lading.sources.s3_credentials import AwsIdentity
from lading.sources.s3_wire import Address, Refusal
from lading.uri import ModelUri


@dataclass(frozen=True, slots=True)
class Use:
    """What is done with a bucket, as sentences have it: "let anybody {verb} the bucket", "allow {rights}"."""

    verb: str
    passive: str
    rights: str


READING = Use(
    "read", "be read by", "s3:ListBucket on {bucket} and s3:GetObject on {bucket}/* (and kms:Decrypt for its key)"
)
WRITING = Use(
    "write to",
    "be written to by",
    "s3:ListBucket and s3:ListBucketMultipartUploads on {bucket}; s3:PutObject, s3:GetObject, s3:DeleteObject, "
    "s3:AbortMultipartUpload and s3:ListMultipartUploadParts on {bucket}/* (and kms:GenerateDataKey and kms:Decrypt "
    "for its key)",
)

_ABOUT_US = {"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"}


def changed(target: ModelUri) -> ContentError:
    """The error for an object that is not the one that was listed."""
    return ContentError(f"{target} changed after it was listed", remedy=LIST_AGAIN)


def deleted(target: ModelUri) -> ContentError:
    """The error for a version that is no longer kept."""
    return ContentError(f"the version of {target} that was listed was deleted", remedy=LIST_AGAIN)


def archived(target: ModelUri, said: str) -> SourceError:
    """The error for an object whose bytes lie in an archive."""
    return SourceError(
        f"{target} is archived and cannot be read ({said})", remedy="restore it from its storage class first"
    )


def refused(
    refusal: Refusal, target: ModelUri, identity: AwsIdentity, address: Address, use: Use = READING
) -> LadingError:
    """The error for an answer of S3 that is no answer, by its status and code."""
    where, who, bucket = address.endpoint, identity.name, address.bucket
    said = f"HTTP {refusal.status}{f', {refusal.code}' if refusal.code else ''}"
    match refusal.code, refusal.status:
        case "NoSuchBucket" | "InvalidBucketName", _:
            return ModelNotFound(
                f"{where} has no bucket {bucket}", remedy="check its name, and AWS_ENDPOINT_URL where it is not AWS's"
            )
        case "NoSuchKey" | "NoSuchVersion", _:
            return FileNotFoundAtSource(f"{target} is gone", remedy=LIST_AGAIN)
        case _, 412:
            return changed(target)
        case "InvalidObjectState", _:
            return archived(target, said)
        case "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed", _:
            return SourceError(
                f"the bucket {bucket} is not in the region {address.region} of {where} ({said})",
                remedy=f"set AWS_REGION to {refusal.region or 'its region'}, and AWS_ENDPOINT_URL, where set, with it",
            )
        case code, status if status in (401, 403) or (status == 400 and (identity.is_anonymous or code in _ABOUT_US)):
            return _refused_identity(refusal.code, said, identity, address, use)
        case _, 404:
            return ModelNotFound(
                f"{where} has no bucket {bucket} ({said})", remedy="check its name, and AWS_ENDPOINT_URL"
            )
    return SourceProtocolError(
        f"{where} does not behave as an S3 server does: it answers {said} to {who}",
        remedy="check that AWS_ENDPOINT_URL is the root of an S3 server, and that no login page answers in its place",
    )


def _refused_identity(code: str, said: str, identity: AwsIdentity, address: Address, use: Use) -> Unauthorized:
    """The error for what S3 has against us."""
    where, who, bucket = address.endpoint, identity.name, address.bucket
    if identity.is_anonymous:
        return Unauthorized(
            f"{where} does not let just anybody {use.verb} the bucket {bucket} ({said}), and no AWS credentials were "
            f"found"
            f"{f' for the profile {identity.profile}' if identity.profile else ''}",
            remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; they were looked for in the "
            "environment, the shared files, web identity, SSO, container and instance metadata",
        )
    match code:
        case "InvalidAccessKeyId":
            what, remedy = (
                "does not know the access key of",
                "check AWS_ACCESS_KEY_ID, and that AWS_ENDPOINT_URL fits it",
            )
        case "SignatureDoesNotMatch":
            what, remedy = (
                "rejects the signature of",
                "check that AWS_SECRET_ACCESS_KEY belongs to the access key, whole and without quotes; "
                "a proxy that changes requests breaks signatures too",
            )
        case "ExpiredToken":
            what, remedy = "says that the session has ended of", "log in again, or set keys and AWS_SESSION_TOKEN anew"
        case "InvalidToken":
            what, remedy = (
                "rejects the session token of",
                "set AWS_SESSION_TOKEN to the one of these keys, or unset it for lasting keys",
            )
        case "RequestTimeTooSkewed":
            what, remedy = (
                "has a clock that differs by minutes from this machine's, and rejects",
                "set this machine's clock",
            )
        case _:
            what, remedy = (
                f"does not let the bucket {bucket} {use.passive}",
                f"allow these credentials {use.rights.format(bucket=bucket)}, or use others",
            )
    return Unauthorized(f"{where} {what} {who} ({said})", remedy=remedy)
