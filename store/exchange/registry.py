"""The formats of other tools, by the names that the commands take."""

from __future__ import annotations

from ..errors import StoreError
from ..files.schema import way_without_importer
from .exporting import Exporter
from .formats.clam import find_clam, read_clam
from .formats.h5ad import write_h5ad
from .formats.hest import find_hest, read_hest
from .formats.spatialdata_ import check_spatialdata, write_spatialdata
from .formats.stamp import find_stamp, read_stamp, write_stamp
from .formats.trident import find_trident, read_trident, slide_vectors, write_trident
from .formats.triplex import find_triplex, read_triplex
from .importing import Importer

IMPORTERS: dict[str, Importer] = {
    "trident": Importer("TRIDENT", lambda path, _: find_trident(path), read_trident, slide_vectors),
    "clam": Importer("CLAM", lambda path, coords: find_clam(path, coords=coords), read_clam),
    "stamp": Importer("STAMP", lambda path, _: find_stamp(path), read_stamp),
    "hest": Importer("HEST", lambda path, coords: find_hest(path, coords=coords), read_hest),
    "triplex": Importer("TRIPLEX", lambda path, _: find_triplex(path), read_triplex),
}

EXPORTERS: dict[str, Exporter] = {
    "trident": Exporter("TRIDENT", write_trident),
    "stamp": Exporter("STAMP", write_stamp),
    "h5ad": Exporter("AnnData", write_h5ad, bare=True),
    "spatialdata": Exporter("SpatialData", write_spatialdata, bare=True, check=check_spatialdata),
}


def importer_named(name: str) -> Importer:
    """The importer of a format.

    Raises
    ------
    StoreError
        If there is none.
    """
    if name not in IMPORTERS:
        msg = f"--format {name!r} cannot be imported: choose one of {', '.join(IMPORTERS)}"
        if way := way_without_importer(name):
            msg += f". {way}"
        raise StoreError(msg)
    return IMPORTERS[name]


def exporter_named(name: str) -> Exporter:
    """The exporter of a format.

    Raises
    ------
    StoreError
        If there is none.
    """
    if name not in EXPORTERS:
        msg = f"--format {name!r} cannot be exported: choose one of {', '.join(EXPORTERS)}"
        raise StoreError(msg)
    return EXPORTERS[name]
