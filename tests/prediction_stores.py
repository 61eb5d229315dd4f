"""Small stores for tests of training and prediction: measured slides, and a grid that nobody measured."""

import numpy as np
from scipy.sparse import csr_matrix

from tissuary.store import Store
from tissuary.store.files.expression import Expression, write_expression
from tissuary.store.files.features import FeatureHeader, write_features
from tissuary.store.files.patches import Patches, write_patches
from tissuary.store.files.schema import expression_path, features_path, patches_path, slide_path
from tissuary.store.files.slide import SlideRecord, write_slide

KEY, MPP, DIM, GENES = "toy@20x", 0.5, 6, 12
GRID = "grid-112um"


def add_slide(
    root,
    slide_id,
    *,
    patient="A",
    n=36,
    seed=0,
    shift=0.0,
    patches="spots",
    fingerprint="print",
    key=KEY,
    empty=(),
    source="made up",
    digest="none",
    bounds_px=None,
    size_px=None,
    genes=GENES,
    picture=True,
):
    """A slide with features; with counts that follow them where its patches are spots, none in rows `empty`."""
    rng = np.random.default_rng(seed)
    side, step_um = max(1, int(np.ceil(np.sqrt(n)))), 200.0 if patches == "spots" else 112.0
    cells = np.stack(np.divmod(np.arange(n), side), axis=1).astype(np.int32)
    place = Patches(
        center_px=(cells[:, ::-1] + 1.0) * step_um / MPP,
        barcode=np.array([f"{c}x{r}" for r, c in cells], dtype=np.str_),
        array=cells,
    )
    width, height = size_px or (int((side + 1) * step_um / MPP),) * 2
    record = SlideRecord(
        slide_id, patient, width, height, MPP, "manifest", {"manifest": MPP}, source, digest, "tests", bounds_px
    )
    thumbnail = rng.integers(0, 255, (60, 60, 3)).astype(np.uint8) if picture else None
    write_slide(slide_path(root, slide_id), record, thumbnail=thumbnail)
    write_patches(patches_path(root, slide_id, patches=patches), place, slide_id=slide_id)
    x = rng.normal(size=(n, DIM)) * (1 + 0.3 * np.arange(DIM)) + shift
    header = FeatureHeader(
        slide_id, fingerprint, {"licence": "CC0"}, 0.5, 112.0, 1.0, "fp32", place.digest, MPP, digest
    )
    path = features_path(root, slide_id, key=key, patches=patches)
    with write_features(path, header, shape=x.shape) as writer:
        writer.append(x.astype(np.float32))
    if patches == "spots":
        loading = np.random.default_rng(9).normal(size=(2, GENES))
        share = np.exp(x[:, :2] @ loading * 0.4 + np.arange(GENES) / 6)
        counts = rng.poisson(rng.lognormal(7, 0.5, size=(n, 1)) * share / share.sum(1, keepdims=True))
        counts[list(empty)] = 0
        names = np.array([f"gene{g}" for g in range(genes)], dtype=np.str_)
        expression = Expression(csr_matrix(counts[:, :genes].astype(np.float32)), names, place.barcode)
        write_expression(expression_path(root, slide_id), expression, place, slide_id=slide_id)


def measured(root, patients="ABCD", **options):
    """Four measured slides of four patients."""
    for i, patient in enumerate(patients):
        add_slide(root, f"{patient}1", patient=patient, seed=i, **options)
    return Store(root)
