"""Measured and predicted maps: spots in their true place, size and proportion, the tissue to the same scale."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest

from tissuary.heads.evaluation.comparison import GeneMap
from tissuary.heads.evaluation.report_plots import colour_range, map_pictures, scale_bar_um, shown_field
from tissuary.store.errors import HeadError


def gene_map(**fields):
    rows, columns = np.mgrid[0:6, 0:8]
    center_um = np.c_[columns.ravel(), rows.ravel()] * 200.0 + 500.0  # (48, 2)
    values = center_um[:, 0] / 1000
    plain = {"gene": "ERBB2", "slide_id": "C2", "role": "best gene", "pcc": 0.6123, "head": "ridge"}
    return GeneMap(**{**plain, "center_um": center_um, "measured": values, "predicted": values / 2, **fields})


def decode(uri):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))).convert("RGB"))


def test_a_map_puts_spots_where_they_are_with_y_downward():
    low_left = np.array([[0.0, 0.0], [800.0, 0.0], [0.0, 800.0], [800.0, 800.0]])
    shown = gene_map(center_um=low_left, measured=np.array([0.0, 0.0, 1.0, 0.0]), predicted=np.zeros(4))

    pixels = decode(map_pictures(shown).measured).astype(int)

    # Viridis ends in yellow (253, 231, 37): only the spot at x = 0, y = 800 um has it, the colour bar below apart.
    field = shown_field(low_left)
    px_per_um = pixels.shape[1] / field.width
    map_px = round(field.height * px_per_um)
    yellow = (pixels[:map_px, :, 0] > 200) & (pixels[:map_px, :, 2] < 100)
    y_px, x_px = (float(side.mean()) for side in np.nonzero(yellow))
    assert (x_px / px_per_um + field.left, y_px / px_per_um + field.top) == pytest.approx((0.0, 800.0), abs=12.0)
    # A circle of 0.9 of the spacing, of true proportions.
    height_px, width_px = (int(np.ptp(side)) + 1 for side in np.nonzero(yellow))
    assert height_px / px_per_um == pytest.approx(720.0, rel=0.03)
    assert width_px == pytest.approx(height_px, abs=2)


def test_the_tissue_shows_the_same_field_as_the_maps():
    thumbnail = np.full((100, 100, 3), 255, dtype=np.uint8)
    thumbnail[50:, 50:] = (120, 0, 120)  # from (1000, 1000) um on
    center_um = np.array([[800.0, 800.0], [1200.0, 800.0], [800.0, 1200.0], [1200.0, 1200.0]])
    shown = gene_map(
        center_um=center_um,
        measured=np.arange(4.0),
        predicted=np.arange(4.0),
        thumbnail=thumbnail,
        thumbnail_um_per_px=20.0,
    )

    pictures = map_pictures(shown)

    pixels = decode(pictures.tissue).astype(int)
    field = shown_field(center_um)
    px_per_um = pixels.shape[1] / field.width
    purple = pixels[:, :, 1] < 60
    top_px = np.nonzero(purple[:, -5])[0].min()
    left_px = np.nonzero(purple[top_px + 60])[0].min()
    assert top_px / px_per_um + field.top == pytest.approx(1000.0, abs=20.0)
    assert left_px / px_per_um + field.left == pytest.approx(1000.0, abs=20.0)


@pytest.mark.parametrize(
    ("width_um", "bar_um"), [(4000, 1000), (3999, 500), (9000, 2000), (20001, 5000), (400, 100), (100, 20)]
)
def test_the_scale_bar_is_the_longest_round_length_in_a_quarter(width_um, bar_um):
    assert scale_bar_um(width_um) == bar_um


def test_a_map_whose_parts_do_not_match_is_refused():
    with pytest.raises(HeadError, match=r"wanted \(n, 2\), \(n,\) and \(n,\)"):
        gene_map(measured=np.zeros(3))
    with pytest.raises(HeadError, match="give thumbnail_um_per_px"):
        gene_map(thumbnail=np.zeros((4, 4, 3), dtype=np.uint8))


def test_one_bright_spot_does_not_darken_the_others():
    values = np.r_[np.linspace(0.0, 1.0, 999), 1000.0, np.nan]

    low, high = colour_range(values)

    assert 0.0 <= low < 0.02
    assert 0.98 < high < 1.0
    assert colour_range(np.full(5, 2.0)) == (1.5, 2.5)
    assert colour_range(np.full(5, np.nan)) == (0.0, 1.0)
