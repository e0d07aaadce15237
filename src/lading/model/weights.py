"""How much of a checkpoint each rank holds once it is loaded: every tensor where :mod:`lading.model.placement` says.

What an engine holds is not what the file has, by the rules of vLLM 0.33:

* floats are held in the model's type, but for scales, what a quantised checkpoint has in narrower types, and the decay
  of states and some families' routers, which are float32;
* vocabularies are padded to a multiple of 64 rows; experts in mxfp4 to what their kernels work on: the hidden size to a
  multiple of 256, each rank's part of the inner size to one of 128;
* a rank never has less than one head of keys and values; groups of B and C of state-space layers are repeated likewise;
* a head that is tied is the embedding; quantised up-projections of latent attention are kept in 16 bit beside;
* pipeline stages have the same number of layers but for a remainder, which the stages before the last take, from the
  back (``distributed/utils.py``); with a tied head the last stage has the embedding, too; some families build the
  tables on every stage;
* layers beyond those that the config counts are for multi-token prediction and are not loaded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from lading.model.allocation import rest_of_segment
from lading.model.placement import Place, Split, Stage, place
from lading.model.safetensors import DTYPE_BITS, Tensor

__all__ = [
    "ONLINE_BYTES",
    "VOCABULARY_ROWS",
    "Build",
    "Heads",
    "Loading",
    "Portion",
    "WeightTable",
    "stage_layers",
    "weight_table",
]

VOCABULARY_ROWS = 64
ONLINE_BYTES = {"fp8": 1.0, "mxfp8": 1 + 1 / 32, "int8": 1.0, "bitsandbytes": 0.5 + 4 / 64, "nvfp4": 0.5 + 1 / 16}
"""Bytes that a number takes in a linear layer which the engine quantises while it loads, scales with it."""

_FLOATS = {"F32", "F64", "F16", "BF16"}
_MXFP4_HIDDEN, _MXFP4_INNER = 256, 128


@dataclass(frozen=True, slots=True)
class Heads:
    """Attention heads, and those of keys and values; 0 where the config does not tell."""

    queries: int = 0
    keys: int = 0


@dataclass(frozen=True, slots=True)
class Loading:
    """How an engine loads a checkpoint: over ``tp`` x ``pp`` ranks, with the model's heads.

    ``quantize`` is one of :data:`ONLINE_BYTES`: linear layers that are not quantised yet are while they are loaded.
    ``expert_ranks`` is how many ranks share whole experts among them (expert parallelism), 0 for splitting each; where
    they do not divide, figures are those of a rank with one more. ``number_bytes`` is 4 for float32.
    """

    tp: int
    pp: int
    heads: Heads
    quantize: str | None = None
    expert_ranks: int = 0
    number_bytes: float = 2


@dataclass(frozen=True, slots=True)
class Build:
    """What the config says of how the model is built. 0 stands for what it does not tell.

    ``layers`` are those of the language model. ``experts`` are the routed ones of a layer, of ``expert_inner`` numbers
    inside; ``hidden`` is the model's width. ``keys`` are the heads of keys and values of layers that have not as many
    as the others. ``state_groups`` take ``group_share`` of the projection into a state-space layer. ``layer_scale`` is
    by how much layers that were derived have to grow to come to what the files hold. ``everywhere`` are the parts of
    the first and the last pipeline stage that all stages have. ``tower_layers`` are those that are built of a tower for
    images, 0 for all. ``has_wide_routers`` says that routers are held in float32, ``has_pooler`` that the layer which
    turns an encoder's first vector into another is built, ``has_whole_projector`` that every rank has all
    of what lies between a tower and the language model.
    """

    layers: int = 0
    is_tied: bool = False
    experts: int = 0
    expert_inner: int = 0
    hidden: int = 0
    is_mxfp4: bool = False
    keys: tuple[tuple[int, int], ...] = ()
    state_groups: int = 0
    group_share: float = 0.0
    layer_scale: float = 1.0
    everywhere: frozenset[Stage] = frozenset()
    tower_layers: int = 0
    has_wide_routers: bool = False
    has_pooler: bool = True
    has_whole_projector: bool = False


@dataclass(frozen=True, slots=True)
class Portion:
    """Tensors that go the same way: ``numbers`` in the model's own type, and ``fixed_bytes`` in types that stay.

    ``layer`` is -1 for what is in none. ``is_linear`` says that the numbers can be quantised while they are loaded.
    """

    stage: Stage
    layer: int
    split: Split
    is_linear: bool
    numbers: int
    fixed_bytes: int


@dataclass(frozen=True, slots=True)
class Parameter:
    """Parameters that are alike, as an engine makes them of tensors: what each is made of, and the layers of all.

    A layer is -1 for one that is in none.
    """

    parts: tuple[Portion, ...]
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WeightTable:
    """The weights of a model once loaded, by where they go; ``parameters`` are the same by what they are loaded into.

    ``draft_bytes`` are left out: they are for speculation. ``unknown_bytes`` are in layers of a kind that is not known,
    which count whole on every rank.
    """

    portions: tuple[Portion, ...]
    build: Build = field(default_factory=Build)
    draft_bytes: int = 0
    unknown_bytes: int = 0
    parameters: tuple[Parameter, ...] = ()

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        return self.build.layers

    @property
    def total_bytes(self) -> int:
        """Bytes of everything, once, in 16 bit where it is not quantised."""
        return round(sum((each.numbers * 2 + each.fixed_bytes) * self._scale(each) for each in self.portions))

    def rank_bytes(self, how: Loading) -> tuple[int, ...]:
        """Bytes of a rank of each pipeline stage; the tensor-parallel ranks of a stage have the same."""
        stages = stage_layers(self.layers, how.pp)
        totals = [0.0] * how.pp
        for each in self.portions:
            share = self._rank_share(each, how)
            for number in self._stages_of(each.stage, each.layer, stages):
                totals[number] += share
        return tuple(round(total) for total in totals)

    def rounding_bytes(self, how: Loading) -> tuple[int, ...]:
        """Bytes that the allocator takes beyond those of :meth:`rank_bytes`, on a rank of each stage.

        0 with experts in mxfp4: kernels pack them anew, and what is counted as their padding is more than was measured.
        """
        stages = stage_layers(self.layers, how.pp)
        totals = [0] * how.pp
        for each in () if self.build.is_mxfp4 else self.parameters:
            rest = rest_of_segment(round(sum(self._rank_share(part, how) for part in each.parts)))
            for layer in each.layers if rest else ():
                for number in self._stages_of(each.parts[0].stage, layer, stages):
                    totals[number] += rest
        return tuple(totals)

    def _rank_share(self, portion: Portion, how: Loading) -> float:
        """Bytes of a portion on one of its ranks."""
        width = ONLINE_BYTES[how.quantize] if how.quantize and portion.is_linear else how.number_bytes
        size = (portion.numbers * width + portion.fixed_bytes) * self._scale(portion)
        return size * self._share(portion, how)

    def _scale(self, portion: Portion) -> float:
        return self.build.layer_scale if portion.stage is Stage.LAYER else 1.0

    def _share(self, portion: Portion, how: Loading) -> float:
        """The share of a portion that a rank holds."""
        tp, heads = how.tp, how.heads
        keys = dict(self.build.keys).get(portion.layer, heads.keys)
        by_head = 1 / min(tp, keys) if keys else 1 / tp
        match portion.split:
            case Split.RANKS:
                return 1 / tp
            case Split.EXPERTS:
                return self._expert_share(tp, how.expert_ranks)
            case Split.KEYS_AND_VALUES:
                return by_head
            case Split.FUSED if heads.queries and keys:
                parts = heads.queries + 2 * keys
                return heads.queries / parts / tp + 2 * keys / parts * by_head
            case Split.FUSED:
                return 1 / tp
            case Split.STATES:
                repeated = self.build.group_share if self.build.state_groups % tp else 0.0
                return (1 - repeated) / tp + repeated / min(tp, max(1, self.build.state_groups))
            case Split.NONE:
                return 1.0

    def _expert_share(self, tp: int, expert_ranks: int) -> float:
        """The share of the experts, which are padded where a kernel for mxfp4 works on them."""
        build = self.build
        if expert_ranks:
            here = -(-build.experts // expert_ranks) / build.experts if build.experts else 1 / expert_ranks
            return here * self._padding(1)
        return self._padding(tp) / tp

    def _padding(self, tp: int) -> float:
        """By how much the experts of a rank grow when ``tp`` ranks split each."""
        build = self.build
        if not (build.is_mxfp4 and build.expert_inner and build.hidden):
            return 1.0
        inner = -(-build.expert_inner // tp)
        return _rounded(build.hidden, _MXFP4_HIDDEN) / build.hidden * _rounded(inner, _MXFP4_INNER) / inner

    def _stages_of(self, stage: Stage, layer: int, stages: tuple[range, ...]) -> Iterable[int]:
        last = len(stages) - 1
        if stage in self.build.everywhere:
            return range(last + 1)
        match stage:
            case Stage.FIRST:
                return (0, last) if self.build.is_tied and last else (0,)
            case Stage.LAYER:
                return [number for number, layers in enumerate(stages) if layer in layers]
            case Stage.HEAD | Stage.LAST:
                return (last,)
            case Stage.TOWER:
                return range(last + 1)
            case Stage.DRAFT:
                return ()


def weight_table(tensors: Sequence[Tensor], build: Build) -> WeightTable:
    """Where the tensors go. A model of which ``build`` does not tell the layers has those that are there."""
    kept = [(tensor, where) for tensor in tensors if (where := _placed(tensor, build))]
    layers = build.layers or max((where.layer for _, where in kept), default=-1) + 1
    drafted = unknown = 0
    portions, parameters = _Sums(), defaultdict[tuple[str, int], _Sums](_Sums)
    for tensor, where in kept:
        if where.stage is Stage.DRAFT or where.layer >= layers:
            drafted += tensor.size_bytes
            continue
        if _is_left_out(where, build):
            continue
        unknown += 0 if where.is_known or len(tensor.shape) < 2 else tensor.size_bytes
        held = _held(tensor, where, build)
        portions.add(where, held)
        parameters[where.parameter, where.block].add(where, held)
    build = replace(build, layers=layers)
    return WeightTable(portions.portions(), build, drafted, unknown, _alike(parameters.values()))


def _placed(tensor: Tensor, build: Build) -> Place | None:
    """Where the tensor goes in this model."""
    where = place(tensor.name)
    is_whole = where is not None and where.is_projector and build.has_whole_projector
    return replace(where, split=Split.NONE) if where and is_whole else where


class _Sums:
    """Numbers and bytes by where they go, while they are added up."""

    def __init__(self) -> None:
        self._numbers: Counter[tuple[Stage, int, Split, bool]] = Counter()
        self._fixed: Counter[tuple[Stage, int, Split, bool]] = Counter()

    def add(self, where: Place, held: tuple[int, int]) -> None:
        """Add what the engine holds of a tensor."""
        key = (where.stage, where.layer, where.split, where.is_linear)
        self._numbers[key] += held[0]
        self._fixed[key] += held[1]

    def portions(self) -> tuple[Portion, ...]:
        """What was added."""
        return tuple(Portion(*key, numbers, self._fixed[key]) for key, numbers in self._numbers.items())


def _alike(parameters: Iterable[_Sums]) -> tuple[Parameter, ...]:
    """The parameters, those of one size together."""
    found: defaultdict[tuple[Portion, ...], list[tuple[Portion, ...]]] = defaultdict(list)
    for each in parameters:
        parts = each.portions()
        found[tuple(replace(part, layer=-1) for part in parts)].append(parts)
    return tuple(Parameter(group[0], tuple(parts[0].layer for parts in group)) for group in found.values())


def _is_left_out(where: Place, build: Build) -> bool:
    """Whether the engine has no parameter for the tensor."""
    if where.stage is Stage.HEAD:
        return build.is_tied
    if where.is_pooler and not build.has_pooler:
        return True
    if where.stage is not Stage.TOWER or not build.tower_layers:
        return False
    return where.block >= build.tower_layers if where.block >= 0 else where.is_last_norm


def stage_layers(layers: int, pp: int) -> tuple[range, ...]:
    """Which layers each pipeline stage has."""
    counts = [layers // pp] * pp
    for number in range(layers % pp):
        counts[-2 - number % max(1, pp - 1)] += 1
    ranges, start = [], 0
    for count in counts:
        ranges.append(range(start, start + count))
        start += count
    return tuple(ranges)


def _held(tensor: Tensor, where: Place, build: Build) -> tuple[int, int]:
    """A tensor's numbers in the model's own type, and its bytes in a type that stays."""
    elements = tensor.elements
    is_vocabulary = where.stage in (Stage.FIRST, Stage.HEAD) and where.split is Split.RANKS
    if is_vocabulary and len(tensor.shape) > 1 and tensor.shape[0]:
        elements = elements // tensor.shape[0] * _rounded(tensor.shape[0], VOCABULARY_ROWS)
    if tensor.dtype in _FLOATS and not where.is_scale:
        is_wide = where.is_decay or (where.is_router and build.has_wide_routers)
        return (0, 4 * elements) if is_wide else (elements, 0)
    beside = elements * 2 if tensor.name.endswith("kv_b_proj.weight") else 0
    return 0, (elements * DTYPE_BITS[tensor.dtype] + 7) // 8 + beside


def _rounded(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
