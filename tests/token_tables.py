"""Prepared tables with tokens of several levels, whose signal is known."""

from dataclasses import replace

import numpy as np

from tissuary.heads.protocols.targets import centre_by_slide
from tissuary.store.files.column import FeatureColumn
from tissuary.tests.head_tables import made_up, without_truth

GRIDS = {"toy@20x.grid7x7": 49, "toy@10x.grid7x7": 49, "toy@5x.grid7x7": 49}
FINE_GRIDS = {"toy@20x.grid14x14": 196, "toy@10x.grid14x14": 196, "toy@5x.grid14x14": 196}
TILES = {"toy@20x.tiles4x4": 16, "toy@10x.tiles2x2": 4}


def with_tokens(patients="ABCD", *, tokens=GRIDS, dim=8, genes=6, noise=0.3, seed=0, **sizes):
    """Spots whose genes follow the finest and the next level: each alone, and their product; views know nothing.

    The first number of a spot's tokens has the spot's signal of that level, and each token its own noise.
    """
    table = made_up(patients, dim=dim, genes=genes, seed=seed, **sizes)
    rng = np.random.default_rng([seed, 1])
    n, slides = len(table), range(len(table.slide_ids))
    signal = rng.normal(size=(n, 2))
    loading = np.random.default_rng(98).normal(size=(3, genes))
    loading[:, :2] = [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]  # two genes of one level only
    y = np.column_stack([signal, signal[:, 0] * signal[:, 1]]) @ loading + noise * rng.normal(size=(n, genes))
    columns = {}
    for level, (key, cells) in enumerate(tokens.items()):
        values = rng.normal(size=(n, cells, dim))
        if level < 2:
            values[..., 0] += signal[:, level, None]
        columns[key] = FeatureColumn(
            key, f"print of {key}", tuple(values[table.slide == one].astype(np.float32) for one in slides)
        )
    views = {}
    for key in ("toy@20x", "toy@10x", "toy@5x"):
        values = rng.normal(size=(n, dim)).astype(np.float32)
        views[key] = FeatureColumn(key, f"print of {key}", tuple(values[table.slide == one] for one in slides))
    targets = centre_by_slide(y, table.slide).astype(np.float32)
    return replace(table, columns=views, token_columns=columns, targets=targets, weights=np.ones(n, dtype=np.float32))


def unseen_tokens(patients="WXYZ", *, seed=7, **options):
    """Another cohort of the same law, and what a head is given of it."""
    test = with_tokens(patients, seed=seed, **options)
    return test, without_truth(test)


def slide_scores(prediction, table):
    """Pearson within each slide, mean over genes, (n_slides,)."""
    from tissuary.heads.protocols.inner import within_slide_pearson

    return within_slide_pearson(prediction.astype(np.float64), table.targets, table.slide).mean(axis=1)


def shape_of(keys, dim, genes):
    """A `NetworkShape` of token keys of one dimension."""
    from tissuary.heads.engine.network import NetworkShape

    rows = tuple((cells, dim) if cells else (dim,) for cells in keys.values())
    return NetworkShape(tuple(keys), rows, genes)
