"""Measured and predicted maps: spots in their true place, size and proportion, the tissue to the same scale."""

from __future__ import annotations

import base64
import dataclasses
import io

import numpy as np
import pytest

from tissuary.heads.comparison.comparison import GeneMap
from tissuary.heads.report.maps import colour_range, map_pictures, scale_bar_um, shown_field
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

    pixels = decode(map_pictures(shown)["Measured"]).astype(int)

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

    assert list(pictures) == ["Tissue and spots", "Measured", "Predicted, same colours", "Predicted, own colours"]
    pixels = decode(pictures["Tissue and spots"]).astype(int)
    field = shown_field(center_um)
    px_per_um = pixels.shape[1] / field.width
    purple = (pixels[:, :, 1] < 60) & (pixels[:, :, 0] > 80)  # and no outline of a spot
    top_px = np.nonzero(purple[:, -5])[0].min()
    left_px = np.nonzero(purple[top_px + 60])[0].min()
    assert top_px / px_per_um + field.top == pytest.approx(1000.0, abs=20.0)
    assert left_px / px_per_um + field.left == pytest.approx(1000.0, abs=20.0)


def test_the_tissue_panel_shows_every_spot_at_its_place():
    """The two pictures differ in the outlines alone: those of the second spot are where its centre and size say."""
    white, centers = np.full((60, 60, 3), 255, dtype=np.uint8), np.array([[500.0, 500.0], [900.0, 500.0]])
    values = np.zeros(2)
    shown = gene_map(center_um=centers, measured=values, predicted=values, thumbnail=white, thumbnail_um_per_px=25.0)

    pixels = decode(map_pictures(shown)["Tissue and spots"]).astype(int)

    field = shown_field(centers)
    px_per_um = pixels.shape[1] / field.width
    left_px, top_px, radius_px = (side * px_per_um for side in (900 - field.left, 500 - field.top, 0.9 * 400 / 2))
    dark = pixels.max(axis=2) < 120
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    on_ring = [
        dark[round(top_px + radius_px * np.sin(a)) - 2 :, round(left_px + radius_px * np.cos(a)) - 2 :][:5, :5].any()
        for a in angles
    ]
    assert all(on_ring)
    assert not dark[round(top_px) - 9 : round(top_px) + 9, round(left_px) - 9 : round(left_px) + 9].any()


def test_measured_and_predicted_share_their_colours_and_the_unit_is_on_the_bars():
    rng = np.random.default_rng(0)
    one = gene_map(measured=rng.uniform(0, 4, 48), predicted=rng.uniform(1, 2, 48))
    plain, named = map_pictures(one), map_pictures(dataclasses.replace(one, unit="log1p of counts per 10,000"))

    # Each bar is at the bottom: same limits give the same strip, and the unit is written below it.
    bars = {caption: decode(uri)[-110:] for caption, uri in plain.items()}
    np.testing.assert_array_equal(bars["Measured"], bars["Predicted, same colours"])
    assert (bars["Measured"] != bars["Predicted, own colours"]).any()
    for caption, uri in named.items():
        ink = [(decode(picture)[-26:].max(axis=2) < 100).sum() for picture in (uri, plain[caption])]
        assert ink[0] > ink[1] + 100, caption


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
