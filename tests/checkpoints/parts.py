"""The pieces that a checkpoint is described with before quantisation: named matrices, tables and vectors.

A family says what it has as :class:`Part` values, in the order of its files; :mod:`tests.checkpoints.schemes` says what
of that a quantised checkpoint stores instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

Config = Mapping[str, Any]


class Use(Enum):
    """What a tensor is for, as far as quantisation and counting ask."""

    LINEAR = auto()  # a matrix (out, in) of the language model: what quantisation packs
    STACK = auto()  # the matrices of all experts in one tensor
    TABLE = auto()  # an embedding
    HEAD = auto()  # the output matrix
    PLAIN = auto()  # norms, biases, routers, convolutions, towers: as they are
    BUFFER = auto()  # in the files, but no parameter


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of the unquantised checkpoint. ``dtype`` None: the model's own.

    ``is_draft`` for layers of multi-token prediction, ``is_copy`` for a head that is the embedding once more: neither
    is a parameter of the model.
    """

    name: str
    shape: tuple[int, ...]
    use: Use = Use.PLAIN
    dtype: str | None = None
    is_draft: bool = False
    is_copy: bool = False

    @property
    def module(self) -> str:
        """The layer that the tensor is a parameter of."""
        return self.name.removesuffix(".weight")

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def is_parameter(self) -> bool:
        return not (self.is_draft or self.is_copy or self.use is Use.BUFFER)


def linear(name: str, out_size: int, in_size: int, *, bias: bool = False) -> list[Part]:
    """A linear layer of the language model."""
    weight = Part(f"{name}.weight", (out_size, in_size), Use.LINEAR)
    return [weight, Part(f"{name}.bias", (out_size,))] if bias else [weight]


def plain(name: str, *shape: int, bias: bool = False) -> list[Part]:
    """A layer that stays in the model's type: a norm, a router, a tower's layer."""
    weight = Part(f"{name}.weight", shape)
    return [weight, Part(f"{name}.bias", shape[:1])] if bias else [weight]


def vector(name: str, *shape: int, dtype: str | None = None) -> list[Part]:
    """A parameter that is its own layer."""
    return [Part(name, shape, dtype=dtype)]


def buffer(name: str, *shape: int, dtype: str | None = None) -> list[Part]:
    """What the files hold and no optimiser saw."""
    return [Part(name, shape, Use.BUFFER, dtype)]


def table(name: str, rows: int, width: int) -> list[Part]:
    """An embedding."""
    return [Part(f"{name}.weight", (rows, width), Use.TABLE)]


def head(name: str, rows: int, width: int) -> list[Part]:
    """The output matrix."""
    return [Part(f"{name}.weight", (rows, width), Use.HEAD)]


def draft(parts: Iterable[Part]) -> list[Part]:
    """The same parts as of a multi-token prediction layer."""
    return [replace(part, is_draft=True) for part in parts]


def as_plain(parts: Iterable[Part]) -> list[Part]:
    """The same parts where quantisers do not reach: towers and projectors."""
    return [replace(part, use=Use.PLAIN) if part.use is Use.LINEAR else part for part in parts]


def prefixed(prefix: str, parts: Iterable[Part]) -> list[Part]:
    """The same parts below a name."""
    return [replace(part, name=prefix + part.name) for part in parts]
