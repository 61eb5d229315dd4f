"""Shared by all tests: one thread, and the real data where a machine has them."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from tissuary.store import Store
from tissuary.store.files.expression import Expression, write_expression
from tissuary.store.files.features import FeatureHeader, write_features
from tissuary.store.files.patches import Patches, write_patches
from tissuary.store.files.schema import expression_path, features_path, patches_path, slide_path
from tissuary.store.files.slide import SlideRecord, write_slide

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)  # before pytest applies -m
def pytest_collection_modifyitems(items):
    """Whatever asks for the real data is marked so."""
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real_data)


torch.set_num_threads(1)  # on contended cores two OpenMP threads are slower than one


@pytest.fixture(autouse=True)
def _one_thread():
    yield
    torch.set_num_threads(1)  # whatever a test did: the plans of later ones record the number


@pytest.fixture
def few_draws(monkeypatch):
    """Counts are thinned once, not until there are 6,000 spots: for comparisons whose ceilings nobody looks at."""
    monkeypatch.setattr("tissuary.heads.comparison.ceiling.THINNED_SPOTS", 1)


@pytest.fixture(scope="session")
def real_data():
    """Folder of real sections, slides and weights, laid out as `her2st/`, `mob/`, `slides/`, `weights/`."""
    folder = Path(os.environ.get("TISSUARY_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "her2st").is_dir():
        pytest.skip(f"no real data in {folder}: set TISSUARY_DATA to the folder that holds her2st/, mob/ and slides/")
    return folder


def write_store(
    root: Path,
    slides: dict[str, tuple[str, int]],
    *,
    dim: int = 8,
    n_genes: int = 60,
    seed: int = 0,
    views: tuple[str, ...] = ("20x",),
) -> Store:
    """Write a store of small made-up slides whose counts follow one feature of each view.

    Features carry a shift and a scale of their slide, depths differ widely, and the density control knows nothing.
    """
    rng = np.random.default_rng(seed)
    loading = np.random.default_rng(99).normal(size=(2 if len(views) == 1 else len(views), n_genes))
    level = np.random.default_rng(98).normal(size=n_genes)
    for slide_id, (patient_id, n) in slides.items():
        side = int(np.ceil(np.sqrt(n)))
        cells = np.stack(np.divmod(np.arange(n), side), axis=1).astype(np.int32)  # (n, 2) row, column
        place = Patches(
            center_px=(cells[:, ::-1] + 1.0) * 400.0,
            barcode=np.array([f"{c}x{r}" for r, c in cells], dtype=np.str_),
            array=cells,
        )
        record = SlideRecord(
            slide_id, patient_id, 20_000, 20_000, 0.5, "manifest", {"manifest": 0.5}, "made up", "none", "tests"
        )
        write_slide(slide_path(root, slide_id), record, thumbnail=np.full((20, 20, 3), 200, np.uint8))
        write_patches(patches_path(root, slide_id), place, slide_id=slide_id)
        latent = {f"toy@{view}": rng.normal(size=(n, dim)) for view in views}
        stored = {key: values * rng.uniform(0.3, 3) + rng.normal(size=dim) for key, values in latent.items()}
        stored["haematoxylin@20x"] = rng.uniform(0.1, 0.9, size=(n, 1))
        for key, values in stored.items():
            header = FeatureHeader(
                slide_id, f"print of {key}", {"licence": "none"}, 0.5, 112.0, 1.0, "fp32", place.digest, 0.5, "none"
            )
            with write_features(features_path(root, slide_id, key=key), header, shape=values.shape) as writer:
                writer.append(values.astype(np.float32))
        signal = np.stack([values[:, 0] for values in latent.values()], axis=1)  # (n, n_views)
        if len(views) == 1:
            signal = latent["toy@20x"][:, :2]
        share = np.exp(signal @ loading * 0.5 + level)
        depth = rng.lognormal(7.5, 0.8, size=(n, 1))
        counts = rng.poisson(depth * share / share.sum(1, keepdims=True))
        genes = np.array([f"gene{g}" for g in range(n_genes)], dtype=np.str_)
        expression = Expression(csr_matrix(counts.astype(np.float32)), genes, place.barcode)
        write_expression(expression_path(root, slide_id), expression, place, slide_id=slide_id)
    return Store(root)


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Store]:
    """Write a store for one test; see `write_store`."""
    return partial(write_store, tmp_path / "store")


@pytest.fixture(scope="module")
def make_shared_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Store]:
    """Write a store that the tests of a module read."""
    return partial(write_store, tmp_path_factory.mktemp("shared") / "store")
