"""Files that are no file of a store's format: what they look like, and what their owner can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .schema import Encoding

TOOLS = {"trident": "TRIDENT", "clam": "CLAM", "stamp": "STAMP", "hest": "HEST", "triplex": "TRIPLEX"}
"""Format of `tissuary import` -> name of the tool."""

OWN = "tissuary-"


def tool_of(file: Any) -> str | None:
    """Format of the tool that seems to have written an opened HDF5 file, by its datasets and attributes.

    The layouts are those that the tools write (TRIDENT a91fa84, CLAM 53e2409, STAMP c54ce06, HEST afd42c3, TRIPLEX
    4750051); CLAM's features carry no attribute at all, so it comes last.
    """
    import h5py

    names = set(file)
    inside = isinstance(file.get("coords", getlink=True), h5py.HardLink)  # a link may lead to any file, or to a pipe
    coords = set(file["coords"].attrs) if inside else set()
    if "stamp_version" in file.attrs or "feats" in names:
        return "stamp"
    if "patch_size_level0" in coords:
        return "trident"
    if "mask_tb" in names:
        return "triplex"
    if names & {"barcode", "barcodes"} and names & {"embeddings", "img", "coords"}:
        return "hest"
    if {"features", "coords"} <= names or "patch_level" in coords:
        return "clam"
    return None


def mend_encoding(found: Encoding, wanted: Encoding, *, tool: str | None) -> str:
    """What to do with a file that says `found` where `wanted` was looked for, as a sentence."""
    if found.type == wanted.type:
        return f"A newer version needs a newer tissuary: `pip install --upgrade tissuary`; this one reads {wanted}."
    if found.type.startswith(OWN):
        return "It lies in a folder of another kind: move it back to where it was."
    formats = "|".join(TOOLS)
    if tool is not None:
        return (
            f"It looks like a file of {TOOLS[tool]}, and a foreign file must be imported: "
            f"`tissuary import PATH --format {tool} --store STORE`."
        )
    return (
        "It was written by something else, and a foreign file must be imported: "
        f"`tissuary import PATH --format {formats} --store STORE`."
    )
