"""Every error a user can meet, split by who is at fault.

::

    LadingError                 exit 1    (a defect of ours; never raised as such)
    ├── UsageError              exit 2    the command line or a setting
    ├── SourceError             exit 3    the place the model comes from
    │   ├── ModelNotFound  RevisionNotFound  FileNotFoundAtSource
    │   ├── Unauthorized  GatedModel  RateLimited
    │   └── SourceUnreachable  SourceProtocolError  OfflineError
    ├── ContentError            exit 4    the bytes or the model they make up
    │   └── DigestMismatch  SizeMismatch  MalformedModel  UnsafePath
    ├── NoRunnableProfile       exit 5    nothing of this model runs on this machine as asked
    ├── MachineError            exit 6    disk, permission, port, GPU
    │   └── NotEnoughDisk  NotWritable  PortInUse  CacheBusy
    ├── EngineError             exit 7    the engine is missing or did not start
    │   └── EngineNotInstalled  EngineInstallFailed  EngineFailed
    └── Stopped                 exit 128+n  a signal asked us to stop before the model was ready

Rules: the message says what and where; ``remedy`` says what to do next, with the exact setting or command.
Vendor errors are translated at the member's edge by type or status code, never by searching their text.
Exit codes are part of the interface (``docs/reference/exit-codes.md``).
"""

from __future__ import annotations

from signal import Signals


class LadingError(Exception):
    """Base of all errors shown to a user: one message, one remedy, one exit code."""

    exit_code: int = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return self.message


class UsageError(LadingError):
    """The command line or a setting is not one we understand."""

    exit_code = 2


class SourceError(LadingError):
    """The place the model comes from said no, or could not be asked."""

    exit_code = 3


class ModelNotFound(SourceError):
    """The source has no such model, or hides it from these credentials."""


class RevisionNotFound(SourceError):
    """The model exists, the branch, tag or commit does not."""


class FileNotFoundAtSource(SourceError):
    """The model exists, the named file does not."""


class Unauthorized(SourceError):
    """The source rejected the credentials."""


class GatedModel(SourceError):
    """The model needs its licence accepted, and a token of the account that did."""


class RateLimited(SourceError):
    """The source asks us to come back later, and did so until our patience ended."""


class SourceUnreachable(SourceError):
    """No answer: name resolution, connection, proxy, TLS or time-out."""


class SourceProtocolError(SourceError):
    """The source answered with something its protocol does not allow."""


class OfflineError(SourceError):
    """The network is needed and was forbidden."""


class ContentError(LadingError):
    """Bytes, or the model they make up, are not what they should be."""

    exit_code = 4


class DigestMismatch(ContentError):
    """A file's bytes do not have the digest their source promised."""


class SizeMismatch(ContentError):
    """A file is shorter or longer than its source promised."""


class MalformedModel(ContentError):
    """The files do not make up a model: config.json, headers or shards are missing or wrong."""


class UnsafePath(ContentError):
    """A file name would leave the workspace."""


class NoRunnableProfile(LadingError):
    """No profile of the model runs on this machine as asked."""

    exit_code = 5


class MachineError(LadingError):
    """This machine lacks something: disk, permission, a free port, a GPU."""

    exit_code = 6


class NotEnoughDisk(MachineError):
    """The cache's filesystem cannot take the bytes."""


class NotWritable(MachineError):
    """A directory we must write is not writable by this user."""


class PortInUse(MachineError):
    """Another process listens where the gateway should."""


class CacheBusy(MachineError):
    """Another process holds the lock of the same download for too long."""


class EngineError(LadingError):
    """The inference engine is missing or did not come up."""

    exit_code = 7


class EngineNotInstalled(EngineError):
    """No engine was found that could serve the model."""


class EngineInstallFailed(EngineError):
    """The engine environment could not be made."""


class EngineFailed(EngineError):
    """The engine ended before the model answered."""


class Stopped(LadingError):
    """A signal asked us to stop before the work was done; ``exit_code`` is 128 plus its number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {Signals(signal_number).name} before it was done; what was fetched is kept")
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
