"""Where the components of an XSAVE area lie: as CPUID says, which processors answer differently.

Source: SDM vol. 1, "Standard Format of the Extended Region of an XSAVE Area"; CPUID leaf 0DH,
sub-leaf i > 1: EAX the size of state component i, EBX its offset from the area's start, ECX bit 0
whether it is one of IA32_XSS (which XFRM cannot name). An AMD processor with AVX-512 has
component 6 at 896 and ends at 2432, where Intel's has 1152 and 2688.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

__all__ = ["INTEL", "LEAF", "XsaveLayout"]

LEAF = 0xD
_LEGACY_BYTES = 512 + 64  # the legacy region and the header
_FIRST_EXTENDED = 2
_COMPONENTS = 63


class XsaveLayout:
    """The extended components: ``components[i]`` is (offset, size) in bytes of component i >= 2."""

    __slots__ = ("components",)

    def __init__(self, components: dict[int, tuple[int, int]]) -> None:
        self.components = dict(components)

    @classmethod
    def of_cpuid(cls, cpuid: Callable[[int, int], tuple[int, int, int, int]]) -> XsaveLayout:
        """What a processor's ``cpuid(leaf, subleaf)`` -> (EAX, EBX, ECX, EDX) says."""
        low, _, _, high = cpuid(LEAF, 0)
        supported = high << 32 | low
        found = {}
        for i in range(_FIRST_EXTENDED, _COMPONENTS):
            if supported >> i & 1:
                size, offset, kind, _ = cpuid(LEAF, i)
                if size and not kind & 1:
                    found[i] = (offset, size)
        return cls(found)

    @property
    def xfrm(self) -> int:
        """The features that XFRM may name: x87, SSE and the components."""
        return 3 | sum(1 << i for i in self.components)

    def size_bytes(self, xfrm: int) -> int:
        """The size of the area of the features in ``xfrm``; one that is not here has none."""
        ends = [sum(place) for i, place in self.components.items() if xfrm >> i & 1]
        return max([_LEGACY_BYTES, *ends])

    def pieces(self, xfrm: int) -> Iterator[tuple[int, int]]:
        """(offset, end) of each extended component in ``xfrm``."""
        for i, (offset, size) in self.components.items():
            if xfrm >> i & 1:
                yield offset, offset + size


INTEL = XsaveLayout(
    {
        2: (576, 256), 3: (960, 64), 4: (1024, 64), 5: (1088, 64), 6: (1152, 512), 7: (1664, 1024),
        9: (2688, 8), 17: (2752, 64), 18: (2816, 8192),
    }
)  # fmt: skip
"""Of Intel's processors with AVX-512 and AMX: for a device without any."""
