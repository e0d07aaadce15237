"""A YAML document from anywhere as nodes that know their lines; JSON is YAML too.

Built from the parser's events: no tag makes an object, no text becomes a number or a date. An id such as ``1e10`` stays
what was written. Refused, each with its line: documents too large, nested too deeply, or which grow too large where
anchors are used (alias bombs, merge keys among them), anchors that hold themselves, keys given twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lading.errors import ContentError

MOST_BYTES = 32 << 20
MOST_NODES = 2_000_000  # with what aliases stand for counted each time
MOST_DEPTH = 40
_NULLS = ("", "~", "null", "Null", "NULL")
_MERGE = "<<"


class ManifestError(ContentError):
    """A manifest that cannot be used; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node: a scalar's text (None for null), a mapping's pairs, or a sequence's items.

    ``where`` is the file, ``line`` counts from 1, ``size`` is how many nodes it stands for.
    """

    where: str
    line: int
    value: str | dict[str, Node] | tuple[Node, ...] | None
    size: int = 1

    def error(self, what: str, remedy: str | None = None) -> ManifestError:
        """The error that names this node's line."""
        return ManifestError(f"{self.where}, line {self.line}: {what}", remedy=remedy)

    def text(self, what: str) -> str:
        """The scalar's text; ManifestError where it is none."""
        if isinstance(self.value, str):
            return self.value
        raise self.error(f"{what} should be a text")

    def mapping(self, what: str) -> dict[str, Node]:
        """The pairs; ManifestError where it is no mapping."""
        if isinstance(self.value, dict):
            return self.value
        raise self.error(f"{what} should be a mapping")

    def items(self, what: str) -> tuple[Node, ...]:
        """The items; ManifestError where it is no sequence."""
        if isinstance(self.value, tuple):
            return self.value
        raise self.error(f"{what} should be a list")


def parse_document(data: bytes, where: str) -> Node:
    """The document's root. ``where`` names the file in errors; ManifestError for what cannot be used."""
    import yaml

    if len(data) > MOST_BYTES:
        raise ManifestError(f"{where} is larger than a manifest may be ({MOST_BYTES >> 20} MiB)")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = data.decode("utf-8-sig")
        return _Builder(where, yaml.parse(text, Loader=loader)).document()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ManifestError(f"{where}, line {line}: not UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ManifestError(f"{where}, line {line}: not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ManifestError(f"{where}: not YAML: {error}") from None


class _Builder:
    """Nodes from the events of one parser."""

    def __init__(self, where: str, events: Iterator[Any]) -> None:
        self._where = where
        self._events = events
        self._anchors: dict[str, Node | None] = {}  # None while the node is being built
        self._size = 0
        self._depth = 0

    def document(self) -> Node:
        root = Node(self._where, 1, None)
        documents = 0
        for event in self._events:
            name = type(event).__name__
            if name == "DocumentStartEvent":
                documents += 1
            elif name not in ("StreamStartEvent", "StreamEndEvent", "DocumentEndEvent"):
                root = self._node(event)
        if documents != 1:
            raise root.error("a manifest is one document" if documents else "the file is empty")
        return root

    def _node(self, event: Any) -> Node:
        line = event.start_mark.line + 1
        name = type(event).__name__
        if name == "AliasEvent":
            return self._counted(self._aliased(event.anchor, line))
        if event.anchor:
            self._anchors[event.anchor] = None
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise Node(self._where, line, None).error(f"nested more than {MOST_DEPTH} deep")
        node = {"ScalarEvent": self._scalar, "SequenceStartEvent": self._sequence, "MappingStartEvent": self._mapping}[
            name
        ](event, line)
        self._depth -= 1
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _aliased(self, anchor: str, line: int) -> Node:
        node = self._anchors.get(anchor)
        if node is None:
            what = "holds itself" if anchor in self._anchors else "is not defined"
            raise Node(self._where, line, None).error(f"the anchor {anchor!r} {what}")
        return Node(node.where, line, node.value, node.size)

    def _counted(self, node: Node) -> Node:
        self._size += node.size
        if self._size > MOST_NODES:
            raise node.error(f"the document stands for more than {MOST_NODES} values")
        return node

    def _scalar(self, event: Any, line: int) -> Node:
        is_null = not event.style and event.value in _NULLS
        return self._counted(Node(self._where, line, None if is_null else event.value))

    def _sequence(self, _event: Any, line: int) -> Node:
        before = self._size
        items = []
        while type(event := next(self._events)).__name__ != "SequenceEndEvent":
            items.append(self._node(event))
        return Node(self._where, line, tuple(items), self._size - before + 1)

    def _mapping(self, _event: Any, line: int) -> Node:
        before = self._size
        pairs: dict[str, Node] = {}
        merged: list[Node] = []
        while type(event := next(self._events)).__name__ != "MappingEndEvent":
            key = self._node(event)
            value = self._node(next(self._events))
            name = key.text("a key")
            if name == _MERGE:
                merged += value.value if isinstance(value.value, tuple) else (value,)
            elif name in pairs:
                raise key.error(f"the key {name!r} is given twice")
            else:
                pairs[name] = value
        for each in merged:  # of several merged mappings the first wins, and the mapping's own keys over all of them
            pairs = {**each.mapping("what '<<' merges"), **pairs}
        return Node(self._where, line, pairs, self._size - before + 1)
