"""Who we are to S3: credentials by botocore's chain, which also renews and signs with them.

The only module that knows botocore; it is imported inside the calls that need it. botocore reads the environment and
the shared files itself, by AWS's rules. Its requests go three ways:

* token services (STS, SSO, OIDC) through the client that all sources share: our proxies, authorities and time-outs;
* so do container credentials over https from another host; it asks three times;
* metadata on this machine or its link (all of the instance's, the container's by http) directly, by no proxy, which
  would be given this machine's role or give its own: one try of one second for the instance's
  (``AWS_METADATA_SERVICE_TIMEOUT``, ``AWS_METADATA_SERVICE_NUM_ATTEMPTS``), three of two for the container's.

Offline, none is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lading.errors import OfflineError, SourceError, SourceUnreachable, Unauthorized, UsageError
from lading.sources.http import HttpClient
from lading.sources.s3_wire import Addressing, error_code, is_region
from lading.sources.urls import endpoint_origin

EMPTY_SHA256 = sha256().hexdigest()

_SET_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_CREDENTIAL_NAMES = {
    "env": "AWS_ACCESS_KEY_ID",
    "shared-credentials-file": "the shared credentials file",
    "config-file": "the shared configuration file",
    "assume-role": "an assumed role",
    "assume-role-with-web-identity": "the web identity token",
    "sso": "the SSO login",
    "login": "the AWS login",
    "custom-process": "credential_process",
    "container-role": "the container's credential endpoint",
    "iam-role": "the instance profile",
}


@dataclass(frozen=True, slots=True)
class S3Options:
    """The settings of S3. ``endpoint`` None means AWS; ``ca_bundle`` is for metadata over https."""

    endpoint: str | None = None
    region: str | None = None
    addressing: Addressing = Addressing.AUTO
    profile: str | None = None
    ca_bundle: Path | None = None


class AwsIdentity:
    """Who we are to S3: the credentials that botocore's chain finds, or nobody. Safe to use from several threads.

    ``profile`` is the one that was asked for; ``endpoint`` and ``region`` are what the shared configuration says, None
    where it says nothing.
    """

    def __init__(self, options: S3Options, client: HttpClient) -> None:
        """Walks the chain, which may ask metadata servers. Raises the errors of :func:`_chain_explained`."""
        self.profile = options.profile
        with _chain_explained(options.profile):
            session = _session(options, client)
            self.endpoint = _configured_endpoint(session)
            self.region: str | None = session.get_config_variable("region") or None
            check_options(S3Options(self.endpoint, self.region))
            self._credentials: Any = session.get_credentials()

    @property
    def is_anonymous(self) -> bool:
        """Whether no credentials were found."""
        return self._credentials is None

    @property
    def name(self) -> str:
        """Where the credentials come from, for messages."""
        method = str(getattr(self._credentials, "method", ""))
        name = _CREDENTIAL_NAMES.get(method, method or "no credentials")
        return f"{name} (profile {self.profile})" if self.profile and method != "env" else name

    def headers(
        self, method: str, url: str, region: str, given: Mapping[str, str], body_sha256: str = EMPTY_SHA256
    ) -> dict[str, str]:
        """The ``given`` headers, and those that sign them with the method and the URL now; none more for nobody.

        The SHA-256 of the body, in hex, is signed too, so that servers refuse another one.
        """
        if self._credentials is None:
            return dict(given)
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        with _chain_explained(self.profile):
            credentials = self._credentials.get_frozen_credentials()
        request = AWSRequest(method, url, headers=dict(given))
        signer = S3SigV4Auth(credentials, "s3", region)
        signer.payload = lambda _: body_sha256  # which would be that of no body: the request is only signed with this
        signer.add_auth(request)
        return {str(name): str(value) for name, value in request.headers.items()}


def check_options(options: S3Options) -> None:
    """Raise UsageError for settings that cannot be used."""
    if options.endpoint is not None:
        endpoint_origin(options.endpoint, "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID")
    if options.region is not None and not is_region(options.region):
        raise UsageError(
            f"AWS_REGION={options.region!r} is not the name of a region", remedy="set it to one such as eu-central-1"
        )


def _session(options: S3Options, client: HttpClient) -> Any:
    """A session of botocore: the environment and the shared files, read by its rules, nothing asked yet."""
    try:
        from botocore.config import Config
        from botocore.session import Session
    except ImportError as error:
        raise UsageError("s3:// needs botocore, which is not installed", remedy='pip install "lading[s3]"') from error
    # An empty AWS_PROFILE names no profile to us, and one called "" to botocore: it takes ours as its default instead.
    session = Session(session_vars={"profile": (None, None, options.profile, None)})
    if options.region:
        session.set_config_variable("region", options.region)
    session.set_default_client_config(Config(retries={"total_max_attempts": 3}))  # of refusals that may pass
    session.set_config_variable("defaults_mode", "legacy")  # "auto" asks the instance's metadata for its region
    # Clients are made with the handlers of their session, and send by themselves only where no handler answers.
    session.register("before-send", lambda request, **_: _answered(client, request))
    _direct_metadata(session, options, client)
    return session


def _answered(client: HttpClient, request: Any) -> Any:
    """The answer to one of botocore's requests, got by our client; raises its errors."""
    from botocore.awsrequest import AWSResponse

    text = {name: value.decode() if isinstance(value, bytes) else str(value) for name, value in request.headers.items()}
    body = request.body.encode() if isinstance(request.body, str) else request.body
    answer = client.send(request.method, request.url, text, body)
    return AWSResponse(answer.url, answer.status, answer.headers, _Body(answer.body))


class _Body:
    """A body as botocore reads one."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        yield self._data


class _MetadataSession:
    """What botocore's fetchers of metadata send by: directly, but through our client to a host that is elsewhere."""

    def __init__(self, client: HttpClient, timeout_seconds: float, ca_bundle: Path | None) -> None:
        from botocore.httpsession import URLLib3Session

        self._client = client
        self._direct = URLLib3Session(timeout=timeout_seconds, verify=str(ca_bundle) if ca_bundle else True)

    def send(self, request: Any) -> Any:
        if self._client.offline:
            raise OfflineError(
                "credentials are needed from a metadata service, and the network is forbidden",
                remedy="unset LADING_OFFLINE and HF_HUB_OFFLINE",
            )
        return self._direct.send(request) if is_near(request.url) else _answered(self._client, request)


def is_near(url: str) -> bool:
    """Whether the URL leads to this machine or its link: by http, as only metadata is served, or by its address."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        address = ip_address(host)
    except ValueError:
        return parts.scheme == "http" or host == "localhost"
    return parts.scheme == "http" or address.is_loopback or address.is_link_local


def _direct_metadata(session: Any, options: S3Options, client: HttpClient) -> None:
    """Give the fetchers of metadata our way to send; they ask no session, and one of them any proxy.

    They keep theirs in a private attribute: there is no public place, and replacing the providers would miss those
    that assumed roles take as their source.
    """
    chain = session.get_component("credential_provider")
    container = chain.get_provider("container-role")._fetcher
    container._session = _MetadataSession(client, container.TIMEOUT_SECONDS, options.ca_bundle)
    instance = chain.get_provider("iam-role")._role_fetcher
    seconds = session.get_config_variable("metadata_service_timeout")
    instance._session = _MetadataSession(client, seconds, options.ca_bundle)
    if client.offline:
        chain.remove("container-role")
        chain.remove("iam-role")


def _configured_endpoint(session: Any) -> str | None:
    """The S3 endpoint of the shared configuration."""
    from botocore.configprovider import ConfiguredEndpointProvider

    provider = ConfiguredEndpointProvider(session.full_config, session.get_scoped_config(), "s3", environ={})
    endpoint = provider.provide()
    return str(endpoint).rstrip("/") if endpoint else None


@contextmanager
def _chain_explained(profile: str | None) -> Iterator[None]:
    """Raise the errors of botocore's chain as ours. Their own text is left out: it may quote the files it is about."""
    try:
        from botocore import exceptions as of
    except ImportError as error:
        raise UsageError("s3:// needs botocore, which is not installed", remedy='pip install "lading[s3]"') from error
    whose = f"the profile {profile}" if profile else "the AWS configuration"
    try:
        yield
    except of.ProfileNotFound:
        raise UsageError(
            f"the AWS profile {profile} is in neither of the shared files", remedy="check AWS_PROFILE, AWS_CONFIG_FILE"
        ) from None
    except of.PartialCredentialsError as error:
        lack = error.kwargs.get("cred_var", "the other half")
        raise UsageError(f"AWS credentials are only half there: {lack} is missing", remedy=f"set {lack}") from None
    except (of.ConfigParseError, of.ConfigNotFound, of.InvalidConfigError) as error:
        raise UsageError(
            f"{whose} cannot be read ({type(error).__name__})", remedy="correct the shared files"
        ) from None
    except of.ClientError as error:
        code = error_code(error.response.get("Error", {}).get("Code")) or "without a code"
        raise Unauthorized(
            f"AWS gives no credentials for {whose}: {error.operation_name} is refused ({code})",
            remedy="check the role's trust policy, AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE",
        ) from None
    except (of.SSOError, of.TokenRetrievalError) as error:
        login = f"aws sso login --profile {profile}" if profile else "aws sso login"
        raise Unauthorized(f"the SSO login of {whose} cannot be used ({type(error).__name__})", remedy=login) from None
    except OfflineError:
        raise
    except SourceError as error:
        remedy = f"{error.remedy}; or {_SET_KEYS}" if error.remedy else _SET_KEYS
        raise type(error)(f"no credentials for {whose}: {error.message}", remedy=remedy) from error
    except (of.ConnectionError, of.HTTPClientError) as error:
        raise SourceUnreachable(
            f"the metadata service of this machine cannot be asked for {whose} ({type(error).__name__})",
            remedy=f"check AWS_EC2_METADATA_SERVICE_ENDPOINT, or {_SET_KEYS}",
        ) from None
    except of.BotoCoreError as error:
        provider = _CREDENTIAL_NAMES.get(str(error.kwargs.get("provider", "")), whose)
        raise Unauthorized(
            f"{provider} gives no credentials ({type(error).__name__})",
            remedy=f"check what it needs, or {_SET_KEYS}",
        ) from None
    except OSError as error:
        raise UsageError(
            f"{error.filename or whose} cannot be read for AWS credentials: {error.strerror or type(error).__name__}",
            remedy="check AWS_WEB_IDENTITY_TOKEN_FILE and the shared files",
        ) from None
    except ValueError:
        raise UsageError(
            f"{whose} has a value that botocore refuses",
            remedy="check the AWS_* variables; AWS_CONTAINER_CREDENTIALS_FULL_URI must be https, or on this machine",
        ) from None
