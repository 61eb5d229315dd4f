"""The stream that fits an image: patches cut from a slide, or patches that were cut already."""

from __future__ import annotations

from collections.abc import Sequence

from ..store.patch_file import Patches
from .patch_stream import PatchStream, Visit
from .precut import PrecutSlide
from .precut_stream import PrecutStream
from .readers import Readers
from .reading import Field
from .tiles import TileSource


def open_stream(
    slide: TileSource,
    patches: Patches,
    visit: Visit,
    fields: Sequence[Field],
    *,
    readers: Readers,
    resample: Sequence[bool],
) -> PatchStream | PrecutStream:
    """Give the patches of a visit, batch after batch; see `PatchStream`."""
    if isinstance(slide, PrecutSlide):
        return PrecutStream(slide, patches.barcode, visit, fields, readers=readers, resample=resample)
    return PatchStream(slide, visit, fields, readers=readers, resample=resample)
