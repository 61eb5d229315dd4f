"""Cohorts as their sources lay them out, with a few spots and numbers made by hand."""

import json

import anndata
import h5py
import numpy as np
import pandas
import polars
import tifffile
from scipy.sparse import csr_matrix

MPP = 0.5
PITCH_PX = 200.0  # 100 um at 0.5 um/px
SIZE_PX = (1300, 1100)  # width, height

BARCODES = ["AAAC-1", "AAAG-1", "AAAT-1", "CAAC-1"]
CENTERS = np.array([[300.25, 310.5], [500.25, 310.5], [400.25, 483.705], [600.25, 483.705]])  # x, y; staggered rows
ARRAY = np.array([[0, 0], [0, 2], [1, 1], [1, 3]])  # row, column as on a Visium slide
GENES = ["ACTB", "ERBB2", "CD3E"]
COUNTS = np.array([[1, 0, 2], [0, 5, 0], [7, 0, 0], [0, 0, 9]], dtype=np.float32)


def picture(width=SIZE_PX[0], height=SIZE_PX[1], seed=0):
    """Pink noise on white glass: (h, w, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(-40, 40, size=(-(-height // 8), -(-width // 8), 3)).repeat(8, 0).repeat(8, 1)
    pixels = np.array([190, 110, 160]) + coarse[:height, :width]
    pixels[:60] = pixels[-60:] = 245
    return pixels.clip(0, 255).astype(np.uint8)


def tiff(path, *, mpp=MPP, pixels=None):
    """A tiled TIFF whose resolution tag says um/px, or says nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, picture() if pixels is None else pixels, tile=(256, 256), photometric="rgb", **said)
    return path


def h5ad(path, *, obs=None, uns=None, center=CENTERS, barcode=BARCODES, array=ARRAY, genes=GENES):
    """AnnData with raw counts, centres in full-resolution pixels and positions on the array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pandas.DataFrame({"in_tissue": 1}, index=list(barcode))
    if array is not None:
        rows["array_row"], rows["array_col"] = array[:, 0], array[:, 1]
    for name, values in (obs or {}).items():
        rows[name] = values
    counts = COUNTS[: len(rows)]
    made = anndata.AnnData(csr_matrix(counts), rows, pandas.DataFrame(index=genes), uns=uns or {})
    made.obsm["spatial"] = np.asarray(center, dtype=np.float64)
    made.write_h5ad(path)
    return path


def hest_corners(center_px, side_px):
    """Upper left corners as hestcore cuts them: `int(center - side // 2)`, towards zero."""
    return np.array([[int(x - side_px // 2), int(y - side_px // 2)] for x, y in center_px], dtype=np.int64)


def hest_patches(path, *, mpp=MPP, center=CENTERS, barcode=BARCODES, on=("img", "coords"), target=224, img=None):
    """`patches/<id>.h5` of hestcore: 112 um at 0.5 um/px; attributes on `img` (1.0.4), or on `coords` too (1.0.6)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    side = round(target * MPP / mpp)
    if img is None:
        img = np.random.default_rng(1).integers(60, 220, size=(len(center), target, target, 3), dtype=np.uint8)
    said = {"patch_size_src": side, "patch_size_target": target, "downsample": side / target, "pixel_size": mpp}
    with h5py.File(path, "w") as file:
        file.create_dataset("img", data=img, chunks=(1, target, target, 3), maxshape=(None, target, target, 3))
        file.create_dataset("coords", data=hest_corners(center, side), chunks=(1, 2), maxshape=(None, 2))
        names = np.array(barcode, dtype=object).reshape(-1, 1)
        file.create_dataset("barcode", data=names, dtype=h5py.string_dtype(), chunks=(1, 1), maxshape=(None, 1))
        for name in on:
            file[name].attrs.update(said)
    return img


HEST_CSV = (
    "dataset_title,id,image_filename,organ,disease_state,oncotree_code,species,patient,st_technology,"
    "data_publication_date,license,study_link,download_page_link1,inter_spot_dist,spot_diameter,spots_under_tissue,"
    "preservation_method,nb_genes,treatment_comment,pixel_size_um_embedded,pixel_size_um_estimated,magnification,"
    "fullres_px_width,fullres_px_height,tissue,disease_comment,subseries,hest_version_added"
)
HEST_COLUMNS = HEST_CSV.split(",")


def hest_facts(slide_id, **said):
    """One slide of HEST's CSV; what is not said is empty."""
    made = {"id": slide_id, "pixel_size_um_estimated": MPP, "inter_spot_dist": 100.0, "dataset_title": "Study A"}
    return {name: (made | said).get(name) for name in HEST_COLUMNS}


def hest_csv(root, *rows):
    root.mkdir(parents=True, exist_ok=True)
    polars.DataFrame(rows, schema=dict.fromkeys(HEST_COLUMNS, polars.String), strict=False).write_csv(
        root / "HEST_v1_1_0.csv"
    )


def hest_json(root, facts):
    """`metadata/<id>.json`: the columns of the CSV and figures of quality; what is not said is NaN."""
    (root / "metadata").mkdir(parents=True, exist_ok=True)
    said = {name: float("nan") if value is None else value for name, value in facts.items()}
    (root / "metadata" / f"{facts['id']}.json").write_text(json.dumps(said | {"total_counts_mean": 4.0}))


def tenx_h5(path, *, barcode=BARCODES, names=GENES, counts=COUNTS, kinds=None):
    """`filtered_feature_bc_matrix.h5` of Cell Ranger 3 and later: columns are barcodes, so the matrix is transposed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = csr_matrix(counts.astype(np.int32))  # rows of spots are columns of the file's matrix
    text = {name: np.array(values, dtype="S") for name, values in {
        "id": [f"ENSG{i:011d}" for i in range(len(names))], "name": names,
        "feature_type": kinds or ["Gene Expression"] * len(names), "genome": ["GRCh38"] * len(names),
    }.items()}  # fmt: skip
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(barcode, dtype="S")
        matrix["data"], matrix["indices"], matrix["indptr"] = rows.data, rows.indices, rows.indptr
        matrix["shape"] = np.array([len(names), len(barcode)], dtype=np.int32)
        features = matrix.create_group("features")
        for name, values in text.items():
            features[name] = values
        features["_all_tag_keys"] = np.array(["genome"], dtype="S")
    return path


def positions(center=CENTERS, array=ARRAY, barcode=BARCODES, in_tissue=None):
    """Rows of Space Ranger's table of positions, with one spot beside the tissue."""
    inside = [1] * len(barcode) if in_tissue is None else in_tissue
    rows = [
        (name, tissue, int(r), int(c), float(y), float(x))
        for name, tissue, (r, c), (x, y) in zip(barcode, inside, array, center, strict=True)
    ]
    return [("GGGG-1", 0, 0, 100, 11.0, 12.0), *rows]


POSITION_COLUMNS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")


def visium(outs, *, version=2, rows=None, prefix=""):
    """`outs` of Visium: version 1 writes its positions without a header, version 2 with one."""
    spatial = outs / "spatial"
    spatial.mkdir(parents=True)
    lines = [",".join(map(str, row)) for row in (rows or positions())]
    if version == 1:
        (spatial / "tissue_positions_list.csv").write_text("\n".join(lines) + "\n")
    else:
        (spatial / "tissue_positions.csv").write_text("\n".join([",".join(POSITION_COLUMNS), *lines]) + "\n")
    factors = {"spot_diameter_fullres": 130.0, "tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.03,
               "fiducial_diameter_fullres": 210.0}  # fmt: skip
    (spatial / "scalefactors_json.json").write_text(json.dumps(factors))
    tenx_h5(outs / f"{prefix}filtered_feature_bc_matrix.h5")
    return outs


def visium_hd(outs, *, bins=(2, 8, 16), mpp=MPP):
    """`outs` of Visium HD: a folder for each side of bins; 2 x 2 bins from (400, 300) px on."""
    for um in bins:
        folder = outs / "binned_outputs" / f"square_{um:03d}um"
        (folder / "spatial").mkdir(parents=True)
        array = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        center = np.array([400.0, 300.0]) + (array[:, ::-1] + 0.5) * um / mpp
        barcode = [f"s_{um:03d}um_{r:05d}_{c:05d}-1" for r, c in array]
        table = polars.DataFrame(positions(center, array, barcode), schema=list(POSITION_COLUMNS), orient="row")
        table.write_parquet(folder / "spatial" / "tissue_positions.parquet")
        factors = {"spot_diameter_fullres": um / mpp, "bin_size_um": float(um), "microns_per_pixel": mpp,
                   "regist_target_img_scalef": 0.2, "tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.01,
                   "fiducial_diameter_fullres": 600.0}  # fmt: skip
        (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
        tenx_h5(folder / "filtered_feature_bc_matrix.h5", barcode=barcode)
    return outs
