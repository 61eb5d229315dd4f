"""The map of a foreign slide from a run trained on real sections: where it lies, who opens it, and what is flagged."""

import anndata
import numpy as np
import openslide
import pytest
import scanpy
from matplotlib import pyplot as plt

from tissuary.featurize import FeaturizeOptions, featurize
from tissuary.heads import PredictOptions, TrainOptions, predict, train

SECTIONS = ("B4", "C3", "C4", "C5")
HELD_OUT = "C2"
FOREIGN = "CMU-1-Small-Region"
TILE_UM = 112.0


@pytest.fixture(scope="module")
def maps(real_data, tmp_path_factory):
    """Folder with the map of a section that was left out of training, and that of another organ and scanner."""
    folder = tmp_path_factory.mktemp("maps")
    spots = FeaturizeOptions(views=("20x", "10x"), pitch_um=200.0)
    grid = FeaturizeOptions(views=("20x", "10x"), patches="grid", grid_um=(TILE_UM,))
    assert not featurize(real_data / "her2st", folder / "her2st.store", options=spots).failed
    assert not featurize(real_data / "slides" / f"{FOREIGN}.svs", folder / "cmu.store", options=grid).failed
    train(folder / "her2st.store", folder / "run", options=TrainOptions(slides=SECTIONS))
    options = PredictOptions(genes=("FN1", "CD74"))
    for store, chosen in (("her2st", PredictOptions(slides=(HELD_OUT,), genes=options.genes)), ("cmu", options)):
        assert not predict(folder / "run", folder / f"{store}.store", folder / "out", options=chosen).failed
    return folder / "out"


def test_a_foreign_slide_is_flagged_and_a_section_of_the_cohort_is_not(maps):
    """The held-out section's patient has other sections in training."""
    foreign, own = (anndata.read_h5ad(maps / f"{name}.h5ad").obs for name in (FOREIGN, HELD_OUT))
    assert foreign["flagged"].mean() > 0.9
    assert own["flagged"].mean() < 0.05
    assert foreign["distance"].min() > own["distance"].median()


def test_the_map_lies_on_the_tissue(maps, real_data):
    """Tissue is found anew here, by the colour of a reduced image alone."""
    with openslide.OpenSlide(str(real_data / "slides" / f"{FOREIGN}.svs")) as slide:
        width_px, height_px = slide.dimensions
        mpp = float(slide.properties["openslide.mpp-x"])
        picture = np.asarray(slide.get_thumbnail((width_px // 16, height_px // 16)), dtype=np.float64)
    tissue = picture.max(axis=2) - picture.min(axis=2) > 25
    scale = picture.shape[1] / width_px
    half = TILE_UM / mpp / 2
    covered = np.zeros(tissue.shape, dtype=bool)
    for x, y in anndata.read_h5ad(maps / f"{FOREIGN}.h5ad").obsm["spatial"]:
        left, right, top, bottom = (max(0, round(v * scale)) for v in (x - half, x + half, y - half, y + half))
        covered[top:bottom, left:right] = True
    assert (covered & tissue).sum() > 0.85 * tissue.sum()
    assert tissue[covered].mean() > 0.5
    assert tissue[covered].mean() > 3 * tissue[~covered].mean()


def test_scanpy_draws_the_map(maps):
    data = scanpy.read_h5ad(maps / f"{FOREIGN}.h5ad")
    assert np.isfinite(data.X).all()
    assert data.X[:, data.var_names.get_loc("FN1")].std() > 0
    axes = scanpy.pl.spatial(data, color="FN1", library_id=next(iter(data.uns["spatial"])), show=False)
    collection, image = axes[0].collections[0], axes[0].images[0]
    assert len(collection.get_paths()) == len(data)
    assert image.get_array().ndim == 3  # the tissue beneath
    plt.close("all")
