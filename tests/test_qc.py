"""The picture for review: what is where it says it is."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from tissuary.featurize.tissue.qc import FIELD_LINE, PANEL_PX, TISSUE_LINE, draw_qc, write_qc
from tissuary.store.errors import StoreError

GLASS, MARK = (200, 220, 240), (180, 40, 60)


def slide(box=(40, 20, 60, 35)):
    """A thumbnail of 100 x 80 px with a marked box (left, top, right, bottom), and the box as a mask."""
    thumbnail = np.full((80, 100, 3), GLASS, np.uint8)
    mask = np.zeros((80, 100), dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    thumbnail[mask] = MARK
    return thumbnail, mask


def panels(picture):
    """Each panel of a picture of `slide`: where its thin frame is found, from left to right."""
    frame = (picture == (218, 220, 224)).all(axis=2)
    boxes = ndimage.find_objects(ndimage.label(frame)[0])
    boxes = [box for box in boxes if box[0].stop - box[0].start > PANEL_PX / 2]
    return [picture[box][1:-1, 1:-1] for box in sorted(boxes, key=lambda box: (box[0].start, box[1].start))]


def extent(found):
    """left, top, right, bottom of what is true."""
    y, x = np.nonzero(found)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])


def is_color(panel, color, *, tolerance=40):
    return (np.abs(panel.astype(int) - color) <= tolerance).all(axis=2)


def draw(sets, **options):
    thumbnail, mask = slide()
    return draw_qc(thumbnail, mask, size_px=(10_000, 8_000), sets=sets, mpp=0.5, **options)


def test_the_panels_show_the_whole_slide_at_one_scale():
    picture = draw({"grid-112um": (np.array([[5000.0, 4000.0]]), 224.0)}, slide_id="S1")
    found = panels(picture)
    assert [panel.shape for panel in found] == [(PANEL_PX * 8 // 10, PANEL_PX, 3)] * 3
    scale = PANEL_PX / 100
    np.testing.assert_allclose(extent(is_color(found[0], MARK)), np.array([40, 20, 60, 35]) * scale, atol=2)


def test_the_outline_encloses_the_tissue_and_the_rest_is_greyed():
    plain, outlined = panels(draw({}))
    mask = slide()[1]
    large = np.asarray(Image.fromarray(mask).resize((PANEL_PX, PANEL_PX * 8 // 10), Image.Resampling.NEAREST))
    line = (outlined == TISSUE_LINE).all(axis=2)
    np.testing.assert_array_equal(ndimage.binary_fill_holes(line) & ~line, large)
    assert ndimage.binary_dilation(large, np.ones((5, 5)))[line].all()
    np.testing.assert_array_equal(outlined[large], plain[large])
    outside = ~large & ~line
    np.testing.assert_array_equal(outlined[outside], plain[outside] // 2 + 56)


@pytest.mark.parametrize("name", ["spots", "grid-500um"])
def test_fields_are_drawn_where_they_are_and_as_large_as_they_are(name):
    # 1,000 px of the slide are 10 px of the thumbnail and 64 px of the panel.
    center = np.array([[2000.0, 5000.0], [8000.0, 3000.0]])
    panel, none = (panels(draw({name: (some, 1000.0)}))[2] for some in (center, center[:0]))
    labels, count = ndimage.label((panel != none).any(axis=2))
    assert count == 2
    for (x, y), number in zip(center * 0.064, (2, 1), strict=True):  # labels run from the top
        field = labels == number
        np.testing.assert_allclose(extent(field), [x - 32, y - 32, x + 32, y + 32], atol=1.01)
        assert field.sum() / 64**2 == pytest.approx(np.pi / 4 if name == "spots" else 1.0, abs=0.05)
        inside = ndimage.binary_erosion(field, iterations=3)
        np.testing.assert_array_equal(panel[inside], np.broadcast_to(GLASS, panel[inside].shape))
        rim = field & ~ndimage.binary_erosion(field, iterations=2)
        assert is_color(panel, FIELD_LINE, tolerance=90)[rim].mean() > 0.35
    np.testing.assert_array_equal(none[:20, :20], np.broadcast_to(np.array(GLASS) // 2 + 56, (20, 20, 3)))


def test_fields_beyond_the_border_and_below_a_pixel_are_fine():
    center = np.array([[0.0, 0.0], [10_000.0, 8_000.0]])
    panel = panels(draw({"grid": (center, 3000.0)}))[2]
    np.testing.assert_array_equal(panel[5, 5], GLASS)
    np.testing.assert_array_equal(panel[-6, -6], GLASS)
    specks = panels(draw({"grid": (np.array([[5000.0, 7000.0]]), 0.5)}))[2]
    difference = (specks != panels(draw({"grid": (np.zeros((0, 2)), 0.5)}))[2]).any(axis=2)
    np.testing.assert_allclose(extent(difference)[:2], [320, 448], atol=1)


def test_empty_sets_and_slides_without_tissue_are_fine():
    thumbnail = np.full((80, 100, 3), 255, np.uint8)
    nothing = np.zeros((80, 100), dtype=bool)
    picture = draw_qc(
        thumbnail, nothing, size_px=(100, 80), sets={"grid-112um": (np.zeros((0, 2)), 224.0)}, mpp=0.5, slide_id="empty"
    )
    found = panels(picture)
    assert len(found) == 3
    assert (found[1] == 255 // 2 + 56).all()
    np.testing.assert_array_equal(found[1], found[2])


def test_many_sets_are_broken_into_rows():
    one = (np.array([[5000.0, 4000.0]]), 224.0)
    few, many = draw({"a": one, "b": one}), draw(dict.fromkeys("abcd", one))
    assert len(panels(few)) == 4
    assert len(panels(many)) == 6
    assert many.shape[1] < few.shape[1]


@pytest.mark.parametrize(("mpp", "wanted_um"), [(0.5, 1000), (0.25, 500), (4.7, 10_000)])
def test_the_scale_bar_is_as_long_as_it_says(mpp, wanted_um):
    # A third of the slide's 10,000 px is 1,667 um at 0.5, 833 um at 0.25 and 15,667 um at 4.7 um/px.
    thumbnail, mask = slide()
    picture = draw_qc(thumbnail, mask, size_px=(10_000, 8_000), sets={}, mpp=mpp)
    rows = (picture[:, 20:] == (32, 33, 36)).all(axis=2)
    longest = max(np.argmin(np.append(row, False)) for row in rows)  # from the margin on
    assert longest * mpp / (PANEL_PX / 10_000) == pytest.approx(wanted_um, rel=0.02)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg"])
def test_pictures_are_written_whole(tmp_path, suffix):
    picture = draw({}, slide_id="S1")
    path = tmp_path / "qc" / f"S1{suffix}"
    write_qc(path, picture)
    with Image.open(path) as image:
        read = np.asarray(image.convert("RGB")).astype(int)
    assert read.shape == picture.shape
    assert np.abs(read - picture).mean() < (0.01 if suffix == ".png" else 2)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(StoreError, match=r"S1\.pdf cannot hold a picture: give it the suffix \.png"):
        write_qc(tmp_path / "S1.pdf", draw({}))
    assert list(tmp_path.iterdir()) == []
