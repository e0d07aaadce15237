"""What PyTorch's caching allocator takes of a GPU beyond the bytes that are asked of it.

By ``c10/cuda/CUDACachingAllocator.cpp``: what is 10 MiB or more gets a segment of its own, a multiple of 2 MiB; what is
left of it becomes another block where that is more than 1 MiB, and belongs to the tensor otherwise. Smaller tensors
share segments of 20 MiB, or of 2 MiB, with no rest worth counting.
"""

from __future__ import annotations

_MIB = 1 << 20
_LEAST_OWN_SEGMENT = 10 * _MIB
_SEGMENT_MULTIPLE = 2 * _MIB
_MOST_REST = 1 * _MIB


def rest_of_segment(size_bytes: int) -> int:
    """Bytes that a tensor of so many takes in addition."""
    rest = -size_bytes % _SEGMENT_MULTIPLE
    return rest if size_bytes >= _LEAST_OWN_SEGMENT and rest <= _MOST_REST else 0
