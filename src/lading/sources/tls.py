"""Which certificate authorities sources are trusted by."""

from __future__ import annotations

import ssl
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from lading.errors import UsageError


def tls_context(ca_bundle: Path | None) -> ssl.SSLContext:
    """A context that trusts the authorities of ``ca_bundle``; else the system's; certifi's where the system has none.

    Raises UsageError for a bundle that cannot be read.
    """
    if ca_bundle is None:
        context = ssl.create_default_context()
        if not _system_has_authorities(context):
            with suppress(ImportError):
                context.load_verify_locations(import_module("certifi").where())
        return context
    try:
        context = ssl.create_default_context(cafile=str(ca_bundle))
    except OSError as error:  # ssl.SSLError, for a file without certificates, is one
        raise UsageError(
            f"SSL_CERT_FILE (or REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE): {ca_bundle} cannot be read as PEM certificates: "
            f"{error.strerror or type(error).__name__}",
            remedy="set it to a readable PEM file of certificate authorities, or unset it",
        ) from error
    # Python 3.13 turned on checks of form that the authorities of many inspecting proxies fail; earlier versions
    # have never made them, and they add nothing to trust in a bundle that was set by hand.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _system_has_authorities(context: ssl.SSLContext) -> bool:
    if context.cert_store_stats()["x509_ca"]:
        return True
    directory = ssl.get_default_verify_paths().capath  # read by OpenSSL when needed, so not in the count
    with suppress(OSError):
        return directory is not None and any(Path(directory).iterdir())
    return False
