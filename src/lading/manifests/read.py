"""NIM manifests of schema 2.0 and of schema 1.x as values; what cannot be used is refused with its line.

Schema 2.0 is a list of profiles, each with ``id``, ``tags`` and ``workspace.files``: a path to ``uri`` and the digest
of the bytes. NIM documents no key for the digest: ``checksum: blake3:<hex>`` or ``sha256:<hex>``, ``blake3: <hex>``,
``sha256: <hex>`` and ``checksums: {blake3: <hex>}`` are read; bare digits are BLAKE3, which NVIDIA's manifests carry.
Schema 1.x maps ids to profiles whose workspace lists repositories: each has a folder (``dst``), ``src.repo_id`` and the
names of its files. Its YAML tags (``!workspace``, ``!name``) say nothing that the keys do not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lading.digest import Digest
from lading.errors import LadingError, UsageError
from lading.manifests.document import MOST_BYTES, ManifestError, Node, parse_document
from lading.model.listed import ListedFile, ListedProfile, ProfileManifest
from lading.model.manifest import check_path
from lading.uri import ModelUri, Scheme

MOST_PROFILES = 10_000
_ID = re.compile(r"[0-9a-f]{64}")
_DIGITS = re.compile(r"[0-9a-fA-F]{64}")
_SCHEMES = tuple(each for each in Scheme if each not in (Scheme.PATH, Scheme.MANIFEST))
_DIGEST_KEYS = ("sha256", "blake3")  # the first that is told is what the bytes have to keep
_COUNTS = ("tp", "pp")
_COUNT = re.compile(r"[1-9]\d{0,3}")
_TOP = ("", ".", "/", "./")


def load_manifest(path: Path) -> ProfileManifest:
    """The manifest in a file. Raises UsageError where it cannot be opened, ManifestError for what it says."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"the manifest {path} cannot be read: {error.strerror}", remedy="name a manifest that this user can read"
        ) from error
    return read_manifest(data, str(path))


def read_manifest(data: bytes, origin: str) -> ProfileManifest:
    """The manifest that ``data`` holds; ``origin`` names it in errors. Raises ManifestError."""
    root = parse_document(data, origin)
    top = root.mapping("a manifest")
    version = top.get("schema_version")
    if version is None and top and all(_ID.fullmatch(key) for key in top):
        found = [_version_1(name, node) for name, node in top.items()]
    elif version is not None and version.text("schema_version").partition(".")[0] == "2":
        listed = top["profiles"].items("profiles") if "profiles" in top else ()
        found = [_version_2(node) for node in listed]
    elif version is not None and version.text("schema_version").partition(".")[0] == "1":
        found = [_version_1(name, node) for name, node in top.items() if _ID.fullmatch(name)]
    else:
        at = version or root
        said = f"schema_version {at.text('schema_version')}" if version else "neither schema_version nor profile ids"
        raise at.error(f"{said}: no manifest that Lading knows", remedy="schemas 2.0 and 1.x are read")
    _check_whole(found, root)
    return ProfileManifest(origin, data.decode("utf-8-sig"), tuple(found))


def _check_whole(profiles: list[ListedProfile], root: Node) -> None:
    if not profiles:
        raise root.error("the manifest lists no profiles")
    if len(profiles) > MOST_PROFILES:
        raise root.error(f"the manifest lists more than {MOST_PROFILES} profiles")
    ids = [each.id for each in profiles]
    if len(set(ids)) != len(ids):
        raise root.error(f"two profiles have the id {_twice(ids)}")


def _version_2(node: Node) -> ListedProfile:
    pairs = node.mapping("a profile")
    if "id" not in pairs:
        raise node.error("the profile has no id")
    name = _profile_id(pairs["id"].text("the id of a profile"), pairs["id"])
    workspace = pairs.get("workspace")
    files = workspace.mapping("workspace").get("files") if workspace else None
    if files is None:
        raise node.error(f"profile {name} lists no files (workspace.files)")
    listed = [_file(path, each) for path, each in files.mapping("workspace.files").items()]
    return ListedProfile(name, _tags(pairs.get("tags")), _distinct(listed, files), _text(pairs.get("model")))


def _version_1(name: str, node: Node) -> ListedProfile:
    pairs = node.mapping("a profile")
    workspace = pairs.get("workspace")
    components = workspace.mapping("workspace").get("components") if workspace else None
    if components is None:
        raise node.error(f"profile {name} lists no files (workspace.components)")
    listed = [file for each in components.items("workspace.components") for file in _component(each)]
    return ListedProfile(
        _profile_id(name, node), _tags(pairs.get("tags")), _distinct(listed, components), _text(pairs.get("model"))
    )


def _component(node: Node) -> Iterator[ListedFile]:
    """The files of one repository of a workspace of schema 1.x."""
    pairs = node.mapping("a component")
    source = pairs.get("src")
    told = source.mapping("src") if source else {}
    if "repo_id" not in told:
        raise node.error("the component names no repository (src.repo_id)")
    repository = _uri(told["repo_id"])
    if repository.file:
        raise told["repo_id"].error(f"{repository} names one file where a repository should be")
    folder = _text(pairs.get("dst"))
    folder = "" if folder in _TOP else folder.removeprefix("./").rstrip("/")
    names = told.get("files")
    if names is None:
        yield ListedFile(_checked(folder, node), repository)
        return
    for each in names.items("src.files"):
        name = each.text("the name of a file")
        path = _checked(f"{folder}/{name}" if folder else name, each)
        yield ListedFile(path, repository.with_file(_checked(name, each)))


def _file(path: str, node: Node) -> ListedFile:
    pairs = node.mapping(f"what is said of {path!r}")
    if "uri" not in pairs:
        raise node.error(f"{path!r} has no uri")
    uri = _uri(pairs["uri"])
    if uri.file is None and path in _TOP:
        return ListedFile("", uri)
    return ListedFile(_checked(path.removeprefix("./"), node), uri, _digest(path, node, pairs))


def _checked(path: str, node: Node) -> str:
    try:
        if path:
            check_path(path)
    except LadingError as error:
        raise node.error(error.message) from None
    return path


def _distinct(files: list[ListedFile], node: Node) -> tuple[ListedFile, ...]:
    paths = [each.path for each in files if each.uri.file]
    if not files:
        raise node.error("a profile without files")
    if len(set(paths)) != len(paths):
        raise node.error(f"two files have the place {_twice(paths)!r}")
    return tuple(files)


def _twice(names: list[str]) -> str:
    return next(each for each, count in Counter(names).items() if count > 1)


def _uri(node: Node) -> ModelUri:
    text = node.text("uri")
    try:
        uri = ModelUri.parse(text)
    except UsageError as error:
        raise node.error(error.message, remedy=error.remedy) from None
    if uri.scheme is Scheme.PATH:
        raise node.error(f"{text!r} is a bare path", remedy=f"in a manifest it is written local://{text}")
    if uri.scheme not in _SCHEMES:
        raise node.error(f"{text!r} names no place that files can be read from")
    return uri


def _digest(path: str, node: Node, pairs: dict[str, Node]) -> Digest | None:
    told = {name: pairs[name] for name in _DIGEST_KEYS if name in pairs}
    if "checksums" in pairs:
        told = {**pairs["checksums"].mapping("checksums"), **told}
    for name in _DIGEST_KEYS:
        if name in told:
            return _parsed(path, f"{name}:{told[name].text(name)}", told[name])
    if told:
        raise node.error(f"{path!r}: {', '.join(told)} is no digest that Lading checks", remedy=_ACCEPTED)
    if "checksum" not in pairs or pairs["checksum"].value is None:
        return None
    text = pairs["checksum"].text("checksum")
    return _parsed(path, f"blake3:{text}" if _DIGITS.fullmatch(text) else text, pairs["checksum"])


_ACCEPTED = "write blake3:<64 hexadecimal digits> or sha256:<64 hexadecimal digits>"


def _parsed(path: str, text: str, node: Node) -> Digest:
    try:
        return Digest.parse(text.strip().lower())
    except ValueError:
        raise node.error(f"{path!r}: {text!r} is no digest that Lading checks", remedy=_ACCEPTED) from None


def _profile_id(text: str, node: Node) -> str:
    name = text.strip().lower()
    if not _ID.fullmatch(name):
        raise node.error(f"{text!r} is no profile id: 64 hexadecimal digits")
    return name


def _tags(node: Node | None) -> dict[str, str]:
    """The tags; a list (newer manifests may name several GPUs) is joined by commas."""
    pairs = node.mapping("tags") if node else {}
    return {key: _tag(key, value) for key, value in pairs.items()}


def _tag(key: str, node: Node) -> str:
    if isinstance(node.value, tuple):
        return ",".join(each.text(f"the tag {key!r}") for each in node.value)
    text = node.text(f"the tag {key!r}").strip() if node.value is not None else ""
    if key in _COUNTS and text and not _COUNT.fullmatch(text):
        raise node.error(f"the tag {key!r} is {text!r}, no number of GPUs")
    return text


def _text(node: Node | None) -> str:
    return node.value if node and isinstance(node.value, str) else ""


__all__ = ["MOST_PROFILES", "ManifestError", "load_manifest", "read_manifest"]
