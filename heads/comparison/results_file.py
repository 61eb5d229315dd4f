"""results.json and results.parquet: every record of a comparison, for a program to read.

Both files hold the same records with the same fields. JSON has no NaN, and neither have these files: a score that
does not exist is null. In Parquet the fields of `JSON_COLUMNS`, which are mappings, are strings of JSON, since their
keys differ from head to head and cohort to cohort; `read_results` turns them back.
"""

from __future__ import annotations

import datetime
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ...store.errors import StoreError
from ...store.files.atomic import atomic_path
from ...store.naming import FeatureKey
from ...store.store import Store
from ...store.table import Table
from .comparison import Comparison, Record
from .inputs import FeatureSet

if TYPE_CHECKING:
    import polars

    from .plan import CompareOptions

JSON_NAME = "results.json"
PARQUET_NAME = "results.parquet"
PROVENANCE_NAME = "provenance.json"

# First the documented fields, in this order in both files; any other field of a record follows.
FIELDS = (
    "head",
    "mode",
    "protocol",
    "fold",
    "backbone",
    "views",
    "panel_size",
    "n_train",
    "n_test",
    "pcc_slide_mean",
    "pcc_slide_mean_low",
    "pcc_slide_mean_high",
    "interval_method",
    "n_slides",
    "n_patients",
    "difference_from_ridge",
    "difference_from_control",
    "pcc_slide_median",
    "pcc_pooled",
    "pcc_heg50",
    "pcc_hvg50",
    "mse",
    "mae",
    "nan_genes",
    "constant",
    "panel",
    "preprocessing",
    "options",
    "chosen",
    "per_patient",
    "fit_seconds",
    "fit_cpu_seconds",
    "predict_seconds",
    "parameters",
    "seed",
    "control",
    "diagnostic",
)
JSON_COLUMNS = (
    "difference_from_ridge",
    "difference_from_control",
    "preprocessing",
    "options",
    "chosen",
    "per_patient",
    "per_patient_score",
    "undefined",
)
# Text also where every value is null, so that files of several comparisons concatenate.
TEXT_COLUMNS = (*JSON_COLUMNS, "backbone", "interval_method")


def write_results(records: Sequence[Mapping[str, object]], folder: Path) -> tuple[Path, Path]:
    """Write results.json and results.parquet into a folder, each whole or not at all.

    Parameters
    ----------
    records
        As in `Comparison.records`.
    folder
        Made where it does not exist.

    Returns
    -------
    tuple of Path
        The JSON file and the Parquet file.

    Raises
    ------
    StoreError
        If the folder cannot be written.
    TypeError
        If a field has values of several kinds, or of a kind that neither file can hold.
    """
    plain = plain_records(records)
    # Both are made before either is written, so that a bad record leaves neither behind.
    frame = _frame(plain)
    lines = json.dumps(plain, indent=1, allow_nan=False)
    with atomic_path(folder / JSON_NAME) as partial:
        partial.write_text(lines + "\n", encoding="utf-8")
    with atomic_path(folder / PARQUET_NAME) as partial:
        frame.write_parquet(partial)
    return folder / JSON_NAME, folder / PARQUET_NAME


def write_provenance(comparison: Comparison, folder: Path) -> Path:
    """Write provenance.json: command, fingerprints, versions and machine, each protocol, each fold's slides and genes.

    Raises
    ------
    StoreError
        If the folder cannot be written.
    """
    content = {
        **comparison.provenance,
        "protocols": {protocol.name: asdict(protocol) for protocol in comparison.protocols},
        "folds": comparison.folds,
        "skipped": [list(one) for one in comparison.skipped],
    }
    with atomic_path(folder / PROVENANCE_NAME) as partial:
        partial.write_text(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return folder / PROVENANCE_NAME


def read_results(path: Path) -> list[Record]:
    """Read either file back.

    Parameters
    ----------
    path
        A `.json` or `.parquet` file that `write_results` has written.

    Returns
    -------
    list of dict
        The records; a field that a record did not have is None, like a score that does not exist.

    Raises
    ------
    StoreError
        If the file is missing or is no such file.
    """
    if not path.is_file():
        msg = f"There are no results at {path}; `tissuary compare STORE --out FOLDER` writes {JSON_NAME} there."
        raise StoreError(msg)
    return _read_parquet(path) if path.suffix == ".parquet" else _read_json(path)


def plain_records(records: Sequence[Mapping[str, object]]) -> list[Record]:
    """Return records of plain Python values with one and the same fields, NaN and infinity turned into None.

    Parameters
    ----------
    records
        As in `Comparison.records`; they are not changed.
    """
    fields = dict.fromkeys([*FIELDS, *(field for record in records for field in record)])
    return [{field: _plain(record.get(field)) for field in fields} for record in records]


def _plain(value: object) -> object:
    """Turn numpy values into Python's, tuples into lists, and what JSON cannot say into None."""
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Path):
        return str(value)
    msg = f"a record holds a {type(value).__name__}; wanted a number, text, or a list or mapping of these"
    raise TypeError(msg)


def _frame(records: Sequence[Record]) -> polars.DataFrame:
    import polars

    fields = list(records[0]) if records else list(FIELDS)
    columns = []
    for field in fields:
        values = [record[field] for record in records]
        if field in JSON_COLUMNS:
            values = [None if value is None else json.dumps(value, allow_nan=False) for value in values]
        columns.append(polars.Series(field, values, dtype=_column_type(field, values)))
    return polars.DataFrame(columns)


def _column_type(field: str, values: Sequence[object]) -> polars.DataType | type[polars.DataType]:
    """Choose one type for a column; a column of nothing but null takes that of a score, so that files concatenate."""
    import polars

    kinds = {type(value) for value in values if value is not None}
    if field in TEXT_COLUMNS or kinds == {str}:
        return polars.String
    if kinds == {bool}:
        return polars.Boolean
    if kinds == {int}:
        return polars.Int64
    if kinds <= {int, float}:
        return polars.Float64
    if kinds == {list}:
        return polars.List(polars.String)
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    msg = f"field {field!r} of the records holds {names}; wanted one kind of text, number or list throughout"
    raise TypeError(msg)


def _read_json(path: Path) -> list[Record]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(_foreign(path, str(error))) from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise StoreError(_foreign(path, "it is not a list of objects"))
    return cast(list[Record], records)


def _read_parquet(path: Path) -> list[Record]:
    import polars

    try:
        records = polars.read_parquet(path).to_dicts()
    except polars.exceptions.PolarsError as error:
        raise StoreError(_foreign(path, str(error))) from error
    for record in records:
        for field in JSON_COLUMNS:
            if record.get(field) is not None:
                record[field] = json.loads(record[field])
    return records


def _foreign(path: Path, cause: str) -> str:
    return f"{path} is no results file of tissuary: {cause}. Run `tissuary compare` again to write it."


VERSIONS = ("tissuary", "torch", "numpy", "scipy", "scikit-learn", "scanpy")


def provenance(store: Store, table: Table, sets: Sequence[FeatureSet], *, options: CompareOptions) -> dict[str, object]:
    """Store, command, fingerprints, licences, versions and machine of a comparison."""
    keys = tuple(dict.fromkeys(key for one in sets for key in one.keys))
    headers = {key: store.header(key, table.slide_ids[0], patches=options.patches) for key in keys}
    return {
        "store": store.path.name,
        "command": command(store, options),
        "spots": len(table),
        "slides": len(table.slide_ids),
        "synthetic_slides": [slide for slide in table.slide_ids if store.slide(slide).synthetic],
        "patches": options.patches,
        "fingerprints": {key: header.fingerprint for key, header in headers.items()},
        "licences": {FeatureKey.parse(key).encoder: header.record.get("licence") for key, header in headers.items()},
        "upsampling": {key: round(header.upsampling, 3) for key, header in headers.items()},
        "seed": options.seed,
        "versions": {name: version(name) for name in VERSIONS},
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def synthetic_sentence(provenance: Mapping[str, object]) -> str | None:
    """Return what synthetic slides mean for the scores; None without any.

    Parameters
    ----------
    provenance
        Of a comparison: "slides" is their number, "synthetic_slides" the ids of those whose picture is synthetic.
    """
    synthetic, slides = provenance.get("synthetic_slides"), provenance.get("slides")
    if not isinstance(synthetic, list) or not synthetic:
        return None
    if len(synthetic) == slides:
        return (
            f"A program drew all {slides} slides and their counts: scores show that the software works, and nothing "
            "of real tissue."
        )
    return f"A program drew {len(synthetic)} of {slides} slides and their counts: {', '.join(map(str, synthetic))}."


def command(store: Store, options: CompareOptions) -> str:
    """The command line that makes the same comparison; LIST stands for the genes in `provenance.json`."""
    words = ["tissuary compare", store.path.name, "--heads", *options.heads, "--protocol", *options.protocols]
    if options.backbones:
        words += ["--backbone", *options.backbones]
    if len(options.view_sets) == 1:
        words += ["--views", *options.view_sets[0]]
    elif options.view_sets:
        words += ["--view-sets", *("+".join(views) for views in options.view_sets)]
    for name, value in (
        ("--standardise", options.standardise),
        ("--centring", options.centring),
        ("--spot-weight", options.spot_weight),
        ("--panel", "LIST" if isinstance(options.panel, tuple) else options.panel),
        ("--panel-size", options.panel_size),
    ):
        words += [] if value is None else [name, str(value)]
    if options.genes:
        words += ["--genes", *options.genes]
    return " ".join([*words, "--seed", str(options.seed)])
