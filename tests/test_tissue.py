"""Tissue is found whatever the lamp; glass, borders and pen are not taken for it."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from tissuary.featurize.options import FeaturizeOptions
from tissuary.featurize.slide_plan import look_at
from tissuary.featurize.slides.open import open_slide
from tissuary.featurize.slides.thumbnail import read_thumbnail
from tissuary.featurize.sources.load import load_cohort
from tissuary.featurize.sources.spots import read_spots
from tissuary.featurize.tissue.background import glass_color, optical_density, unscanned_mask
from tissuary.featurize.tissue.pen import pen_mask
from tissuary.featurize.tissue.tissue import tissue_mask, why_blank
from tissuary.store.errors import CohortError
from tissuary.tests.source_files import tiff

STAIN = np.array([0.72, 0.45, 0.68])
INKS = {"blue": (0.15, 0.35, 0.75), "green": (0.15, 0.6, 0.4), "red": (0.85, 0.2, 0.25), "black": (0.2, 0.2, 0.2)}
"""Transmittance of red, green and blue."""

HER2ST = ("B4", "C2", "C3", "C4", "C5")
MOB = ("MOB1", "MOB2", "MOB3", "MOB4")
INKED = ("C2", "B4", "MOB2", "TCGA")


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def pen_found(picture):
    return pen_mask(optical_density(picture, unscanned_mask(picture)))


def disc_slide(glass, *, radius=60, shape=(200, 300), grain=0.0):
    """A stained disc on glass of one colour, and the disc."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    disc = (x - 120) ** 2 + (y - 100) ** 2 < radius**2
    picture = np.broadcast_to(np.array(glass, dtype=float), (*shape, 3)).copy()
    picture[disc] *= STAIN
    picture += np.random.default_rng(0).normal(size=picture.shape) * grain
    return np.clip(np.round(picture), 0, 255).astype(np.uint8), disc


@pytest.mark.parametrize("grain", [0, 1.5])
@pytest.mark.parametrize(
    "glass", [(255,) * 3, (200,) * 3, (140,) * 3, (221, 207, 224), (241, 240, 254), (235, 230, 215)]
)
def test_tissue_is_found_whatever_the_lamp_and_the_tint(glass, grain):
    picture, disc = disc_slide(glass, grain=grain)
    np.testing.assert_allclose(glass_color(picture, unscanned_mask(picture)), glass, atol=2)
    assert overlap(tissue_mask(picture), disc) > 0.95


@pytest.mark.parametrize("longest", [256, 700, 1024])
def test_the_mask_scales_with_the_thumbnail(longest):
    picture, disc = disc_slide((240, 238, 241))
    size = (longest, round(longest * 2 / 3))
    large, truth = (np.asarray(Image.fromarray(one).resize(size, Image.Resampling.NEAREST)) for one in (picture, disc))
    assert overlap(tissue_mask(large), truth) > 0.95


@pytest.mark.parametrize("border", [(0, 0, 0), (12, 10, 11), (255, 255, 255), (180, 180, 180)])
def test_padding_is_not_tissue(border):
    picture, disc = disc_slide((225, 212, 226), grain=1.5)
    picture[:, 220:] = border
    picture[170:] = border
    assert overlap(tissue_mask(picture), disc) > 0.95
    unscanned = unscanned_mask(picture)
    assert unscanned[172:].all()
    assert unscanned[:, 222:].all()
    assert not (unscanned & disc).any()


@pytest.mark.parametrize("glass", [255, 240, 120])
def test_an_empty_slide_has_no_tissue(glass):
    assert not tissue_mask(np.full((100, 150, 3), glass, np.uint8)).any()


def test_a_slide_scanned_in_a_line_only_has_no_tissue():
    picture = np.full((100, 150, 3), 255, np.uint8)
    picture[50:52] = (220, 230, 225)  # all of it is the padding's seam
    assert not tissue_mask(picture).any()


@pytest.mark.parametrize("spread", [1, 3, 6])
def test_noise_is_not_tissue(spread):
    noise = 235 + np.random.default_rng(0).normal(size=(300, 400, 3)) * spread
    assert not tissue_mask(np.clip(np.round(noise), 0, 255).astype(np.uint8)).any()


def noise(level, spread, *, size=(500, 400), seed=0):
    return np.random.default_rng(seed).normal(level, spread, (*size, 3)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("level", "spread", "reason"),
    [
        (3, 1, "dark: its brightest 1 % reaches 5 of 255"),
        ([5, 3, 4], 1, "dark"),  # channels whose offsets differ look like a stain that fills the slide
        (10, 2, "dark"),
        (30, 5, "without any structure"),
        (128, 20, "without any structure"),
        (200, 15, "without any structure"),
    ],
)
def test_the_noise_of_a_sensor_is_not_tissue_and_a_reason_is_given(level, spread, reason):
    picture = noise(level, spread)
    assert not tissue_mask(picture).any()
    assert reason in why_blank(picture)


def test_a_dark_slide_is_refused_with_the_reason(tmp_path):
    tiff(tmp_path / "dark.tif", pixels=noise(3, 1))
    (sample,) = load_cohort(tmp_path).samples
    with (
        open_slide(sample.image) as slide,
        pytest.raises(CohortError, match="there is no grid; the slide is dark: its"),
    ):
        look_at(sample, slide, FeaturizeOptions(views=("20x",)), encoders={})


def test_noise_beside_tissue_goes_alone():
    picture, disc = disc_slide((240, 238, 241), shape=(400, 600))
    picture[-100:] = noise(60, 20, size=(100, 600))
    found = tissue_mask(picture)
    assert overlap(found, disc) > 0.95
    assert why_blank(picture) is None


def test_grey_dirt_shadows_and_coverslip_edges_are_not_tissue():
    image = Image.new("RGB", (400, 300), (232, 228, 233))
    draw = ImageDraw.Draw(image)
    draw.line((0, 40, 400, 60), fill=(180, 177, 181), width=3)
    draw.ellipse((300, 200, 340, 240), outline=(120, 118, 121), width=4)
    draw.rectangle((20, 200, 80, 260), fill=(200, 196, 201))
    assert not tissue_mask(np.asarray(image.filter(ImageFilter.GaussianBlur(1)))).any()


def test_specks_go_and_small_holes_close():
    picture, _ = disc_slide((240, 240, 240), radius=70)
    clean = picture.copy()
    picture[98:102, 118:122] = 240  # a hole in the middle
    picture[20:22, 280:282] = np.array([180, 110, 170])  # a speck beside it
    np.testing.assert_array_equal(tissue_mask(picture), tissue_mask(clean))
    picture[75:125, 95:145] = 240
    assert not tissue_mask(picture)[85:115, 105:135].any()  # a large hole stays one


# Real sections. Thumbnails are read once.


@pytest.fixture(scope="module")
def thumbnails(real_data):
    """Thumbnail and slide size in px by section."""
    images = {name: next((real_data / "her2st/data/ST-imgs" / name[0] / name).iterdir()) for name in HER2ST}
    images |= {name: real_data / "mob" / f"{name}.jpg" for name in MOB}
    images["TCGA"] = real_data / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    found = {}
    for name, path in images.items():
        with open_slide(path) as slide:
            found[name] = read_thumbnail(slide), (slide.width, slide.height)
    return found


@pytest.mark.parametrize(
    ("name", "least"), [(name, 0.975 if name in ("B4", "MOB4") else 0.985) for name in HER2ST + MOB]
)
def test_measured_spots_lie_on_tissue(real_data, thumbnails, name, least):
    table = "mob/alignment_table_{}.tsv" if name in MOB else "her2st/data/ST-spotfiles/{}_selection.tsv"
    center_px = read_spots(real_data / table.format(name)).center_px
    thumbnail, size_px = thumbnails[name]
    mask = tissue_mask(thumbnail)
    x, y = (center_px * thumbnail.shape[1::-1] / size_px).astype(int).T
    assert mask[y, x].mean() >= least
    # And not because everything is tissue: sections cover 11 to 28 % of these slides.
    assert mask.mean() < 0.3


def test_a_picture_without_glass_is_all_tissue(thumbnails):
    inside = thumbnails["TCGA"][0][250:600, 150:500]
    assert tissue_mask(inside).mean() > 0.99
    assert not pen_found(inside).any()


@pytest.mark.parametrize("name", HER2ST)
def test_haematoxylin_is_not_pen(thumbnails, name):
    assert not pen_found(np.asarray(Image.fromarray(thumbnails[name][0]).reduce(2))).any()


def stroke_over(mask, width_px):
    """A pen stroke (h, w) from the middle of the tissue out over the glass."""
    height, width = mask.shape
    y, x = (axis.mean() for axis in np.nonzero(mask))
    far_x, far_y = (0.93 * side if at < side / 2 else 0.07 * side for at, side in ((x, width), (y, height)))
    image = Image.new("L", (width, height))
    points = [(x, y), ((x + far_x) / 2, y), (far_x, (y + far_y) / 2), (0.4 * x + 0.6 * far_x, far_y)]
    ImageDraw.Draw(image).line(points, fill=255, width=width_px, joint="curve")
    return np.asarray(image) > 0


def inked(thumbnail, stroke, transmittance):
    """The thumbnail seen through ink with a soft edge; light is multiplied."""
    cover = np.asarray(Image.fromarray(stroke.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(0.7))) / 255
    return np.round(thumbnail * (1 - cover[..., None] * (1 - np.array(transmittance)))).astype(np.uint8)


@pytest.fixture(scope="module")
def halves(thumbnails):
    """Thumbnails at half their size, and their tissue."""
    small = {name: np.asarray(Image.fromarray(thumbnails[name][0]).reduce(2)) for name in INKED}
    return {name: (thumbnail, tissue_mask(thumbnail)) for name, thumbnail in small.items()}


@pytest.mark.parametrize("ink", INKS)
@pytest.mark.parametrize("name", INKED)
def test_pen_is_left_out_and_the_tissue_beside_it_kept(halves, name, ink):
    thumbnail, clean = halves[name]
    stroke = stroke_over(clean, width_px=12)
    mask = tissue_mask(inked(thumbnail, stroke, INKS[ink]))
    on_glass = 1 - mask[stroke & ~clean].mean()
    beside = mask[clean & ~stroke].mean()
    over = 1 - mask[stroke & clean].mean()
    assert on_glass >= 0.95
    assert beside >= 0.98
    if name != "TCGA" and ink != "red":  # over dense eosin, and red over any stain, ink cannot be told
        assert over >= 0.95


def test_a_grey_picture_has_no_tissue():
    rng = np.random.default_rng(3)
    for shape in ((400, 600), (511, 300), (20, 1000)):
        grey = rng.integers(120, 250, size=shape, dtype=np.uint8)
        assert not tissue_mask(np.repeat(grey[..., None], 3, axis=2)).any()


@pytest.mark.parametrize(  # DAB pale and strong, Masson's blue; of strong DAB some grains are still taken for ink
    ("stain", "least"), [((187, 142, 117), 0.9), ((146, 84, 57), 0.7), ((79, 105, 203), 0.9)]
)
def test_a_stain_that_has_the_colours_of_ink_is_tissue_all_the_same(stain, least):
    rng = np.random.default_rng(1)
    yy, xx = np.mgrid[:512, :512]
    disc = (xx - 256) ** 2 + (yy - 256) ** 2 < 150**2
    picture = np.full((512, 512, 3), 240.0)
    picture[disc] = np.array(stain) * rng.uniform(0.8, 1.1, size=(disc.sum(), 1))
    mask = tissue_mask(np.clip(picture, 0, 255).astype(np.uint8))
    assert mask[disc].mean() > least
    assert mask[~disc].mean() < 0.05


def test_blood_within_tissue_is_no_red_ink():
    rng = np.random.default_rng(2)
    yy, xx = np.mgrid[:512, :512]
    disc = (xx - 256) ** 2 + (yy - 256) ** 2 < 180**2
    pool = (xx - 250) ** 2 + (yy - 260) ** 2 < 30**2
    picture = np.full((512, 512, 3), 240.0)
    picture[disc] = np.array([173, 108, 163]) * rng.uniform(0.8, 1.1, size=(disc.sum(), 1))
    picture[pool] = np.array([205, 75, 80]) * rng.uniform(0.9, 1.05, size=(pool.sum(), 1))
    mask = tissue_mask(np.clip(picture, 0, 255).astype(np.uint8))
    assert mask[pool].mean() > 0.9
