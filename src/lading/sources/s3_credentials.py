"""Who we are to S3: credentials by botocore's chain, which also renews and signs with them.

The only module that knows botocore; it is imported inside the calls that need it. botocore reads the environment and
the shared files itself, by AWS's rules. Metadata servers get its one try of one second
(``AWS_METADATA_SERVICE_TIMEOUT``, ``AWS_METADATA_SERVICE_NUM_ATTEMPTS``), container credentials its three of two.
Token services (STS, SSO) are asked by botocore too: through ``HTTPS_PROXY`` and ``NO_PROXY`` as it reads them, trusting
our authorities.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lading.errors import SourceUnreachable, Unauthorized, UsageError
from lading.sources.s3_wire import Addressing, is_region
from lading.sources.urls import endpoint_origin

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
    """The settings of S3. ``endpoint`` None means AWS; ``ca_bundle`` is for botocore's own requests."""

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

    def __init__(self, options: S3Options) -> None:
        """Walks the chain, which may ask metadata servers. Raises the errors of :func:`_chain_explained`."""
        self.profile = options.profile
        with _chain_explained(options.profile):
            session = _session(options)
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

    def headers(self, url: str, region: str) -> dict[str, str]:
        """The headers that sign a GET of the URL now; none for nobody."""
        if self._credentials is None:
            return {}
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        with _chain_explained(self.profile):
            credentials = self._credentials.get_frozen_credentials()
        request = AWSRequest("GET", url, headers={})
        S3SigV4Auth(credentials, "s3", region).add_auth(request)
        return {str(name): str(value) for name, value in request.headers.items()}


def check_options(options: S3Options) -> None:
    """Raise UsageError for settings that cannot be used."""
    if options.endpoint is not None:
        endpoint_origin(options.endpoint, "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID")
    if options.region is not None and not is_region(options.region):
        raise UsageError(
            f"AWS_REGION={options.region!r} is not the name of a region", remedy="set it to one such as eu-central-1"
        )


def _session(options: S3Options) -> Any:
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
    if options.ca_bundle:
        session.set_config_variable("ca_bundle", str(options.ca_bundle))
    session.set_default_client_config(Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 3}))
    return session


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
        code = error.response.get("Error", {}).get("Code", "")
        raise Unauthorized(
            f"AWS gives no credentials for {whose}: {error.operation_name} is refused ({code})",
            remedy="check the role's trust policy, AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE",
        ) from None
    except (of.SSOError, of.TokenRetrievalError) as error:
        login = f"aws sso login --profile {profile}" if profile else "aws sso login"
        raise Unauthorized(f"the SSO login of {whose} cannot be used ({type(error).__name__})", remedy=login) from None
    except (of.ConnectionError, of.HTTPClientError) as error:
        raise SourceUnreachable(
            f"the service that gives credentials for {whose} cannot be reached ({type(error).__name__})",
            remedy="check HTTPS_PROXY and NO_PROXY, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ) from None
    except of.BotoCoreError as error:
        provider = _CREDENTIAL_NAMES.get(str(error.kwargs.get("provider", "")), whose)
        raise Unauthorized(
            f"{provider} gives no credentials ({type(error).__name__})",
            remedy="check what it needs, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
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
