"""An S3 server with the habits that ``rclone serve s3`` lacks: regions, short pages, sessions that end, ``If-Match``,
versions, and checksums.

It knows access keys, but does not check signatures: rclone does. Buckets are named by the path, or by the host for any
host that is no loopback address, so that it stands in for a whole domain when it is set as the proxy. It also serves
the kinds of credentials that machines get from a service: container, instance, web identity, assumed role and SSO.
"""

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import md5, sha256
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape

from .part_uploads import PartUploads, metadata, wrong_body
from .server import Call, FaultyServer, Reply, json_reply

_SCOPE = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([^/]+)/s3/aws4_request, SignedHeaders=([a-z0-9;-]+), ")
_LOOPBACK = ("127.0.0.1", "localhost")


@dataclass
class Bucket:
    """A bucket: its objects, in which region it lies, who may read it.

    ``about`` are headers of single objects; their checksums are told as S3 tells them, to a HEAD that asks for them,
    and a GET tells one that is of other bytes. ``versioning`` is "Enabled", "Suspended" or "".
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    region: str = "us-east-1"
    is_public: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    about: dict[str, dict[str, str]] = field(default_factory=dict)
    versioning: str = ""
    denies_versions: bool = False
    denies_heads: bool = False
    kept: dict[tuple[str, str], bytes] = field(default_factory=dict)
    uploads: PartUploads = field(default_factory=PartUploads)
    is_read_only: bool = False

    def etag(self, key: str) -> str:
        return self.etags.get(key) or md5(self.objects[key]).hexdigest()

    def version(self, key: str) -> str | None:
        """The version of what the key holds now."""
        name = {"Enabled": f"{md5(self.objects[key]).hexdigest()[:8]}._-", "Suspended": "null"}
        return name.get(self.versioning)

    def put(self, key: str, data: bytes) -> None:
        """Replace an object; a bucket with versions keeps what it was."""
        if version := self.version(key):
            self.kept[key, version] = self.objects[key]
        self.objects[key] = data


class S3Simulator(FaultyServer):
    """``keys`` maps each access key to the session token that it must come with, None for lasting keys."""

    def __init__(self, *, page_size: int = 1000, tells_region: str = "header") -> None:
        self.buckets: dict[str, Bucket] = {}
        self.keys: dict[str, str | None] = {"AKIATEST": None}
        self.ended_tokens: set[str] = set()
        self.given: dict[str, str] = {"AccessKeyId": "ASIAROLE", "SecretAccessKey": "hunter2", "Token": "token-1"}
        self.page_size = page_size
        self.tells_region = tells_region
        self.hosts: list[str] = []
        super().__init__()

    def add(self, bucket: str, objects: Mapping[str, bytes], **about: object) -> Bucket:
        """A bucket of these objects; ``about`` are fields of :class:`Bucket`."""
        self.buckets[bucket] = Bucket(dict(objects), **about)  # type: ignore[arg-type]
        return self.buckets[bucket]

    def answer(self, call: Call) -> Reply:
        self.hosts.append(call.headers.get("host", ""))
        is_upload = {"uploads", "uploadId"} & call.parameters.keys()
        if (call.method == "POST" and not is_upload) or call.path == "/federation/credentials":
            return self._token_service(call)
        if call.path.startswith(("/credentials", "/latest/")):
            return self._metadata(call)
        name, key = self._target(call)
        bucket = self.buckets.get(name)
        if bucket is None:
            return error_reply(404, "NoSuchBucket")
        refusal = self._refusal(call, bucket)
        if refusal is not None:
            return refusal
        return self._written(bucket, key, call) or (
            self._object(bucket, key, call) if key else self._listing(bucket, call)
        )

    def _written(self, bucket: Bucket, key: str, call: Call) -> Reply | None:
        """The answer to a call that changes the bucket, or is about uploads; None for others."""

        def store(key: str, data: bytes, headers: Mapping[str, str], etag: str) -> None:
            bucket.objects[key] = data
            bucket.about[key] = {f"x-amz-meta-{name}": value for name, value in metadata(headers, "amz").items()}
            bucket.etags[key] = etag

        if call.method in ("PUT", "POST", "DELETE") and bucket.is_read_only:
            return error_reply(403, "AccessDenied")
        if told := bucket.uploads.answer(call, key, store):
            return told
        match call.method:
            case "PUT":
                wrong = wrong_body(call)
                if wrong is None:
                    store(key, call.body, call.headers, md5(call.body).hexdigest())
                return wrong or Reply(200, {"ETag": f'"{bucket.etag(key)}"'})
            case "DELETE":
                bucket.objects.pop(key, None)
                return Reply(204)
        return None

    def _target(self, call: Call) -> tuple[str, str]:
        host = call.headers.get("host", "").partition(":")[0]
        path = unquote(call.path.lstrip("/"))
        if host in _LOOPBACK:
            name, _, key = path.partition("/")
            return name, key
        return host.partition(".s3.")[0], path

    def _refusal(self, call: Call, bucket: Bucket) -> Reply | None:
        found = _SCOPE.match(call.headers.get("authorization", ""))
        if found is None:
            return None if bucket.is_public else error_reply(403, "AccessDenied")
        key, region, signed = found.groups()
        token = call.headers.get("x-amz-security-token")
        amz_headers = {name for name in call.headers if name.startswith("x-amz-")}
        if not amz_headers <= set(signed.split(";")):
            return error_reply(403, "AccessDenied")
        if key not in self.keys:
            return error_reply(403, "InvalidAccessKeyId", f"<AWSAccessKeyId>{key}</AWSAccessKeyId>")
        if token in self.ended_tokens:
            return error_reply(400, "ExpiredToken", f"<Token-0>{token}</Token-0>")
        if token != self.keys[key]:
            return error_reply(400, "InvalidToken")
        if region != bucket.region:
            return self._elsewhere(bucket.region)
        return None

    def _elsewhere(self, region: str) -> Reply:
        match self.tells_region:
            case "header":
                return error_reply(301, "PermanentRedirect", headers={"x-amz-bucket-region": region})
            case "body":
                return error_reply(400, "AuthorizationHeaderMalformed", f"<Region>{region}</Region>")
        return error_reply(301, "PermanentRedirect")

    def _object(self, bucket: Bucket, key: str, call: Call) -> Reply:
        asked = call.parameters.get("versionId", [None])[0]
        if key not in bucket.objects:
            return error_reply(404, "NoSuchKey")
        if (asked and bucket.denies_versions) or (call.method == "HEAD" and bucket.denies_heads):
            return error_reply(403, "AccessDenied")
        headers = {**bucket.headers, **bucket.about.get(key, {})}
        if call.method != "HEAD" or call.headers.get("x-amz-checksum-mode") != "ENABLED":
            headers = {name: value for name, value in headers.items() if not name.startswith("x-amz-checksum-")}
            headers["x-amz-checksum-sha256"] = b64encode(sha256(b"a range").digest()).decode()
        version = asked or bucket.version(key)
        if version:
            headers["x-amz-version-id"] = version
        if asked in (None, bucket.version(key)):
            return Reply(200, headers, bucket.objects[key], file=key, etag=bucket.etag(key))
        data = bucket.kept.get((key, asked))
        if data is None:
            return error_reply(404, "NoSuchVersion")
        return Reply(200, headers, data, file=key, etag=md5(data).hexdigest())

    def _listing(self, bucket: Bucket, call: Call) -> Reply:
        query = {name: values[0] for name, values in call.parameters.items()}
        prefix, after = query.get("prefix", ""), query.get("continuation-token", "")
        keys = [key for key in sorted(bucket.objects) if key.startswith(prefix) and key > after]
        rolled = sorted(
            {prefix + key[len(prefix) :].partition("/")[0] + "/" for key in keys if "/" in key[len(prefix) :]}
        )
        if "delimiter" in query:
            keys = [key for key in keys if "/" not in key[len(prefix) :]]
        page = keys[: self.page_size]
        more = len(keys) > len(page)
        contents = "".join(
            f"<Contents><Key>{quote(key)}</Key><Size>{len(bucket.objects[key])}</Size>"
            f'<ETag>"{bucket.etag(key)}"</ETag></Contents>'
            for key in page
        )
        prefixes = "".join(f"<CommonPrefixes><Prefix>{quote(each)}</Prefix></CommonPrefixes>" for each in rolled)
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        return Reply(
            200,
            {"Content-Type": "application/xml"},
            (
                '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                f"<IsTruncated>{str(more).lower()}</IsTruncated><EncodingType>url</EncodingType>"
                f"{token}{contents}{prefixes if 'delimiter' in query else ''}</ListBucketResult>"
            ).encode(),
        )

    def _metadata(self, call: Call) -> Reply:
        given = {**self.given, "Expiration": "2126-01-01T00:00:00Z", "Code": "Success"}
        match call.method, call.path:
            case "PUT", "/latest/api/token":
                return Reply(200, {}, b"imds-session")
            case "GET", "/latest/meta-data/iam/security-credentials/":
                return Reply(200, {}, b"the-role")
            case "GET", "/latest/meta-data/iam/security-credentials/the-role":
                known = call.headers.get("x-aws-ec2-metadata-token") == "imds-session"
                return json_reply(200, given) if known else Reply(401)
            case "GET", "/credentials":
                return json_reply(200, given) if call.headers.get("authorization") == "container-secret" else Reply(403)
        return Reply(404)

    def _token_service(self, call: Call) -> Reply:
        if call.path == "/federation/credentials":
            return self._sso_portal(call)
        if call.path == "/token":
            known = json.loads(call.body).get("refreshToken") == "refresh-me"
            answer = {"accessToken": "sso-token", "expiresIn": 3600, "tokenType": "Bearer"}
            return json_reply(200, answer) if known else json_reply(400, {"error": "invalid_grant"})
        asked = {name: values[0] for name, values in parse_qs(call.body.decode()).items()}
        match asked:
            case {"Action": "AssumeRoleWithWebIdentity", "WebIdentityToken": "the-jwt"}:
                return self._role("AssumeRoleWithWebIdentity")
            case {"Action": "AssumeRole"} if "/sts/aws4_request" in call.headers.get("authorization", ""):
                return self._role("AssumeRole")
        refusal = b"<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code></Error></ErrorResponse>"
        return Reply(403, {"Content-Type": "text/xml"}, refusal)

    def _sso_portal(self, call: Call) -> Reply:
        if call.headers.get("x-amz-sso_bearer_token") != "sso-token":
            return json_reply(401, {"message": "no"}, {"x-amzn-ErrorType": "UnauthorizedException"})
        keys = {
            "accessKeyId": self.given["AccessKeyId"],
            "secretAccessKey": self.given["SecretAccessKey"],
            "sessionToken": self.given["Token"],
            "expiration": 4_900_000_000_000,
        }
        return json_reply(200, {"roleCredentials": keys})

    def _role(self, action: str) -> Reply:
        return Reply(
            200,
            {"Content-Type": "text/xml"},
            (
                f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
                f"<{action}Result><AssumedRoleUser><AssumedRoleId>AROA:x</AssumedRoleId>"
                "<Arn>arn:aws:sts::123456789012:assumed-role/r/x</Arn></AssumedRoleUser><Credentials>"
                f"<AccessKeyId>{self.given['AccessKeyId']}</AccessKeyId>"
                f"<SecretAccessKey>{self.given['SecretAccessKey']}</SecretAccessKey>"
                f"<SessionToken>{self.given['Token']}</SessionToken><Expiration>2126-01-01T00:00:00Z</Expiration>"
                f"</Credentials></{action}Result></{action}Response>"
            ).encode(),
        )


def error_reply(status: int, code: str, more: str = "", headers: Mapping[str, str] | None = None) -> Reply:
    """S3's refusal: ``more`` is XML beside the code."""
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>No.</Message>{more}</Error>'
    return Reply(status, {"Content-Type": "application/xml", **(headers or {})}, body.encode())
