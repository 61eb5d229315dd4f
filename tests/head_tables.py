"""Prepared tables in memory, as heads see them under `strict`."""

import numpy as np

from tissuary.heads.protocols.targets import centre_by_slide
from tissuary.store.files.column import FeatureColumn
from tissuary.store.table import Table


def made_up(patients="ABCD", *, each=2, spots=30, dim=12, genes=6, noise=0.5, seed=0):
    """A training table: genes follow the first features linearly, weights differ, slides lie on a square of 8 mm."""
    rng = np.random.default_rng(seed)
    n_slides = len(patients) * each
    slide = np.repeat(np.arange(n_slides), spots + np.arange(n_slides)).astype(np.int32)
    n = len(slide)
    x = rng.normal(size=(n, dim)).astype(np.float32)
    loading = np.random.default_rng(99).normal(size=(min(3, dim), genes))
    y = x[:, : len(loading)] @ loading + noise * rng.normal(size=(n, genes))
    parts = tuple(x[slide == one] for one in range(n_slides))
    return Table(
        slide_ids=tuple(f"{p}{i}" for p in patients for i in range(each)),
        patient_ids=tuple(p for p in patients for _ in range(each)),
        slide=slide,
        row=np.concatenate([np.arange(len(part)) for part in parts]).astype(np.int32),
        center_um=rng.uniform(0, 8000, size=(n, 2)),
        columns={"made-up@20x": FeatureColumn("made-up@20x", "none", parts)},
        barcode=np.arange(n).astype(np.str_),
        depth=rng.lognormal(7, 0.8, size=n),
        targets=centre_by_slide(y, slide).astype(np.float32),
        target_offset=rng.normal(size=(n_slides, genes)).astype(np.float32),
        weights=rng.uniform(0.1, 1, size=n).astype(np.float32),
        panel=tuple(f"gene{g}" for g in range(genes)),
    )


def unseen(table, **other):
    """A test table of another patient, with the same features and genes and nothing to learn from."""
    shape = {"dim": table.features().shape[1], "genes": len(table.panel)}
    test = made_up("Z", **{"each": 1, "seed": 7, **shape, **other})
    return test, without_truth(test)


def without_truth(table):
    """What a head is given to predict."""
    from dataclasses import replace

    return replace(table, targets=None, weights=None, depth=None)
