import logging
import struct
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from tissuary.featurize.slides.open import open_slide
from tissuary.featurize.slides.openslide_ import OpenSlideSlide
from tissuary.store.errors import SlideError

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (300, 420, 3), dtype=np.uint8)
DQT, DHT, SOS = 0xDB, 0xC4, 0xDA  # JPEG markers: quantisation tables, Huffman tables, start of the pixels


def waves(height, width):
    """Smooth colours, so that JPEG has something to keep."""
    y, x = np.mgrid[:height, :width]
    return np.stack([128 + 100 * np.sin(x / a + y / b) for a, b in ((37, 53), (23, 91), (71, 29))], -1).astype(np.uint8)


def without_tables(jpeg):
    """A JPEG stream and its tables, as TIFF keeps them apart."""
    tables, rest, at = b"", jpeg[:2], 2
    while jpeg[at + 1] != SOS:
        (length,) = struct.unpack_from(">H", jpeg, at + 2)
        segment = jpeg[at : at + 2 + length]
        tables, rest = (tables + segment, rest) if jpeg[at + 1] in (DQT, DHT) else (tables, rest + segment)
        at += 2 + length
    return rest + jpeg[at:], b"\xff\xd8" + tables + b"\xff\xd9"


def coded_tiles(image, tile_px, encode):
    """(row by row) bytes of the tiles of an image; beyond the border is grey, which no reader may show."""
    height, width = image.shape[:2]
    for top in range(0, height, tile_px):
        for left in range(0, width, tile_px):
            tile = np.full((tile_px, tile_px, 3), 99, dtype=np.uint8)
            part = image[top : top + tile_px, left : left + tile_px]
            tile[: part.shape[0], : part.shape[1]] = part
            yield encode(tile)


def write_jpeg_svs(path, images, *, colours="ycbcr420", tile_px=64):
    """An SVS: tiled levels of JPEG with the tables kept once a page, and a thumbnail after the first."""
    encoding, options = {
        "ycbcr420": ({"subsampling": "420"}, {"photometric": "ycbcr", "subsampling": (2, 2)}),
        "ycbcr444": ({"subsampling": "444"}, {"photometric": "ycbcr", "subsampling": (1, 1)}),
        "rgb": (
            {"colorspace": "RGB", "outcolorspace": "RGB"},
            {"photometric": "rgb", "compressionargs": {"outcolorspace": "RGB"}},
        ),
    }[colours]
    options |= {"description": "Aperio Image Library v11.2.1 \n46000x32914|AppMag = 20|MPP = 0.4990", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        for level, image in enumerate(images):

            def encode(tile):
                return imagecodecs.jpeg8_encode(tile, level=85, **encoding)

            _, tables = without_tables(encode(image[:tile_px, :tile_px]))
            tiles = (without_tables(jpeg)[0] for jpeg in coded_tiles(image, tile_px, encode))
            shape = {"shape": image.shape, "dtype": np.uint8, "tile": (tile_px, tile_px)}
            tiff.write(tiles, compression="jpeg", jpegtables=tables, **shape, **options)
            if not level:
                tiff.write(image[::4, ::4].copy(), photometric="rgb", metadata=None, rowsperstrip=16)
    return path


def write_tiled(path, image, **options):
    tifffile.imwrite(path, image, **({"photometric": "rgb", "tile": (64, 64), "metadata": None} | options))
    return path


def all_of(slide, level=0):
    return slide.read(level, 0, 0, *slide.level_dimensions[level])


def tiles_of(slide, level):
    """(column, row) of every tile, by the sizes the slide states."""
    (width, height), (columns, rows) = slide.level_dimensions[level], slide.tile_px[level]
    return [(c, r) for r in range(-(-height // rows)) for c in range(-(-width // columns))]


def tile(slide, level, column, row):
    return slide.decode_tile(level, column, row, slide.fetch_tile(level, column, row))


def put_together(slide, level=0):
    """The level from its tiles, each with exactly the pixels that belong to it."""
    (width, height), (columns, rows) = slide.level_dimensions[level], slide.tile_px[level]
    whole = np.zeros((height, width, 3), dtype=np.uint8)
    for column, row in tiles_of(slide, level):
        whole[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns] = tile(
            slide, level, column, row
        )
    return whole


@pytest.mark.parametrize(
    ("options", "tile_px"),
    [
        ({}, (64, 64)),
        ({"tile": (32, 80)}, (80, 32)),
        ({"compression": "zlib", "predictor": True}, (64, 64)),
        ({"compression": "jpeg2000"}, (64, 64)),
        ({"photometric": "minisblack"}, (64, 64)),
        ({"planarconfig": "separate"}, (64, 64)),
    ],
)
def test_tiles_of_a_tiff_make_up_its_pixels(tmp_path, options, tile_px):
    image = expected = NOISE
    if options.get("photometric") == "minisblack":
        image, expected = NOISE[..., 0], NOISE[..., [0, 0, 0]]
    elif options.get("planarconfig") == "separate":
        image = np.moveaxis(NOISE, -1, 0).copy()
    with open_slide(write_tiled(tmp_path / "slide.tif", image, **options)) as slide:
        assert slide.tile_px == (tile_px,)
        np.testing.assert_array_equal(put_together(slide), expected)
        np.testing.assert_array_equal(slide.read(0, 61, 30, 77, 111), expected[30:141, 61:138])


def test_tiles_with_opacity_are_laid_on_white(tmp_path):
    image = np.dstack([NOISE, np.full(NOISE.shape[:2], 51, dtype=np.uint8)])  # one fifth
    path = write_tiled(tmp_path / "slide.tif", image, extrasamples=["unassalpha"])
    with open_slide(path) as slide:
        expected = np.floor(NOISE / 5 + 255 * 4 / 5 + 0.5)
        np.testing.assert_array_equal(put_together(slide), expected)


def test_a_level_in_strips_has_tiles_as_wide_as_itself(tmp_path):
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(NOISE, photometric="rgb", tile=(64, 64), metadata=None, subifds=1)
        tiff.write(NOISE[::2, ::2], photometric="rgb", rowsperstrip=16, metadata=None, subfiletype=1)
    with open_slide(path) as slide:
        assert slide.tile_px == ((64, 64), (210, 16))
        np.testing.assert_array_equal(put_together(slide, 1), NOISE[::2, ::2])


def test_tiles_of_a_photo_are_slices(tmp_path):
    image = RNG.integers(0, 256, (700, 1100, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    with open_slide(tmp_path / "photo.png") as slide:
        assert slide.tile_px == ((512, 512),) * 3
        for level in range(3):
            np.testing.assert_array_equal(put_together(slide, level), all_of(slide, level))
        np.testing.assert_array_equal(put_together(slide), image)
        assert np.shares_memory(tile(slide, 0, 2, 1), tile(slide, 0, 2, 1))
        with pytest.raises(ValueError, match="read-only"):
            tile(slide, 0, 0, 0)[:] = 0


def test_tiles_through_openslide(tmp_path):
    path = write_tiled(tmp_path / "slide.tif", NOISE, tile=(64, 80))
    with OpenSlideSlide(path) as slide:
        assert slide.tile_px == ((80, 64),)
        np.testing.assert_array_equal(put_together(slide), NOISE)


@pytest.mark.parametrize("kind", ["tifffile", "openslide", "photo"])
def test_a_tile_must_exist(tmp_path, kind):
    path = tmp_path / "slide"
    Image.fromarray(NOISE).save(path, "PNG") if kind == "photo" else write_tiled(path, NOISE, tile=(512, 512))
    with OpenSlideSlide(path) if kind == "openslide" else open_slide(path) as slide:
        fetched = slide.fetch_tile(0, 0, 0)
        for column, row in [(1, 0), (0, 1), (-1, 0), (0, -1)]:
            missing = rf"level 0 has 1 x 1 tiles; that at column {column}, row {row} was asked for"
            with pytest.raises(SlideError, match=missing):
                slide.fetch_tile(0, column, row)
            with pytest.raises(SlideError, match=missing):
                slide.decode_tile(0, column, row, fetched)
        for level in (1, -1):
            with pytest.raises(SlideError, match=rf"has levels 0 to 0; a tile of level {level} was asked for"):
                slide.fetch_tile(level, 0, 0)


def test_truncated_tiles_are_named_as_they_are_fetched_and_damaged_ones_as_they_are_decoded(tmp_path):
    path = write_tiled(tmp_path / "slide.tif", NOISE, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        (first, last), sizes = (tiff.pages[0].dataoffsets[i] for i in (0, -1)), tiff.pages[0].databytecounts
    data = bytearray(path.read_bytes()[: last + sizes[-1] - 7])
    data[first : first + 20] = b"\x55" * 20
    path.write_bytes(data)
    with open_slide(path) as slide:
        with pytest.raises(SlideError, match=rf"truncated: tile 34 ends after {sizes[-1] - 7} of {sizes[-1]} bytes"):
            slide.fetch_tile(0, 6, 4)
        fetched = slide.fetch_tile(0, 0, 0)
        with pytest.raises(SlideError, match="tile 0 cannot be decoded"):
            slide.decode_tile(0, 0, 0, fetched)
        np.testing.assert_array_equal(tile(slide, 0, 1, 0), NOISE[:64, 64:128])


@pytest.mark.parametrize(("tag", "value"), [("TileByteCounts", 2**60), ("TileOffsets", 2**63 + 5)])
def test_tiles_beyond_any_memory_are_refused(tmp_path, tag, value):
    path = write_tiled(tmp_path / "slide.tif", NOISE, bigtiff=True)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        found = tiff.pages[0].tags[tag]
        found.overwrite([value, *found.value[1:]], dtype="Q")
    with open_slide(path) as slide:
        with pytest.raises(SlideError, match=r"tile 0 (ends after|cannot be read)"):
            slide.fetch_tile(0, 0, 0)
        np.testing.assert_array_equal(tile(slide, 0, 6, 4), NOISE[256:, 384:])


@pytest.mark.parametrize("description", [None, "Aperio Image"])
def test_a_file_that_claims_huge_tiles_is_refused_unread(tmp_path, description):
    path = write_tiled(tmp_path / "slide.tif", NOISE, compression="zlib", description=description)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for tag in ("TileWidth", "TileLength"):
            tiff.pages[0].tags[tag].overwrite(100_000, dtype="I")
    with pytest.raises(SlideError, match="100000 x 100000 px in one piece"):
        open_slide(path)


def test_sizes_that_are_fractions_are_refused(tmp_path):
    path = write_tiled(tmp_path / "slide.tif", NOISE, bigtiff=True)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["TileWidth"].overwrite(64.5, dtype="d")
    with pytest.raises(SlideError, match=r"cannot be read as TIFF .*it is damaged"):
        open_slide(path)


def test_a_closed_slide_reads_no_other_file(tmp_path):
    slide = open_slide(write_tiled(tmp_path / "slide.tif", NOISE))
    slide.close()
    with (tmp_path / "slide.tif").open("rb"), pytest.raises(SlideError, match="tile 0 cannot be read"):
        slide.fetch_tile(0, 0, 0)


@pytest.mark.parametrize("colours", ["ycbcr420", "ycbcr444", "rgb"])
def test_an_aperio_slide_is_read_directly_and_equals_openslide(tmp_path, colours):
    image = waves(300, 420)
    levels = [image, image[::2, ::2].copy(), image[::4, ::4].copy()]
    path = write_jpeg_svs(tmp_path / "slide.svs", levels, colours=colours)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[2].jpegtables  # as scanners write them
    with open_slide(path) as slide, OpenSlideSlide(path) as reference:
        assert (slide.reader, reference.reader) == ("tifffile (aperio)", "OpenSlide (aperio)")
        assert slide.metadata_mpp == reference.metadata_mpp == 0.499
        assert slide.level_dimensions == reference.level_dimensions == ((420, 300), (210, 150), (105, 75))
        assert slide.level_downsamples == reference.level_downsamples == (1.0, 2.0, 4.0)
        assert slide.tile_px == reference.tile_px == ((64, 64),) * 3
        for level, written in enumerate(levels):
            np.testing.assert_array_equal(all_of(slide, level), all_of(reference, level))
            np.testing.assert_array_equal(put_together(slide, level), all_of(reference, level))
            assert np.abs(all_of(slide, level).astype(int) - written).mean() < 6  # the picture, not only agreement


def test_the_page_and_not_the_jpeg_says_what_an_aperio_tiles_colours_are(tmp_path):
    path = write_jpeg_svs(tmp_path / "slide.svs", [waves(100, 100)], colours="rgb")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["PhotometricInterpretation"].overwrite(6)  # the markers still say RGB
    with open_slide(path) as slide, OpenSlideSlide(path) as reference:
        assert slide.reader == "tifffile (aperio)"
        np.testing.assert_array_equal(all_of(slide), all_of(reference))


def test_aperio_levels_of_fractional_downsample_are_the_levels_own_pixels(tmp_path):
    image = waves(301, 421)
    path = write_jpeg_svs(tmp_path / "slide.svs", [image, image[:-1:2, :-1:2].copy()])
    with open_slide(path) as slide, OpenSlideSlide(path) as reference, tifffile.TiffFile(path) as tiff:
        assert slide.level_downsamples == reference.level_downsamples == (1.0, (421 / 210 + 301 / 150) / 2)
        np.testing.assert_array_equal(put_together(slide, 1), tiff.pages[2].asarray())


def rewrite_tag(path, page, tag, change):
    with tifffile.TiffFile(path, mode="r+") as tiff:
        found = tiff.pages[page].tags[tag]
        found.overwrite(change(found.value))


def test_an_aperio_slide_that_leaves_out_tiles_is_left_to_openslide(tmp_path, caplog):
    image = waves(256, 256)
    path = write_jpeg_svs(tmp_path / "slide.svs", [image, image[::2, ::2].copy()])
    whole = OpenSlideSlide(path).read(0, 0, 0, 256, 256)
    rewrite_tag(path, 2, "TileByteCounts", lambda sizes: (0, *sizes[1:]))
    with caplog.at_level(logging.DEBUG), open_slide(path) as slide:
        assert slide.reader == "OpenSlide (aperio)"
        assert "page 2 leaves out tiles" in caplog.text
        # It fills them from the finer level, which is why they are not white here.
        assert np.abs(tile(slide, 1, 0, 0).astype(int) - image[:128:2, :128:2]).mean() < 6
    rewrite_tag(path, 0, "TileByteCounts", lambda sizes: (0, *sizes[1:]))
    with open_slide(path) as slide:
        assert (tile(slide, 0, 0, 0) == 255).all()
        np.testing.assert_array_equal(tile(slide, 0, 1, 0), whole[:64, 64:128])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"compression": "zlib"}, "page 0 is compressed as 8 in 2"),
        ({"compression": None}, "page 0 is compressed as 1 in 2"),
        ({"compression": "jpeg", "photometric": "minisblack"}, "page 0 is compressed as 7 in 1"),
    ],
)
def test_an_aperio_slide_of_another_kind_is_left_to_openslide(tmp_path, caplog, options, reason):
    image = NOISE[..., 0] if "photometric" in options else NOISE
    path = write_tiled(tmp_path / "slide.svs", image, description="Aperio Image", **options)
    with caplog.at_level(logging.DEBUG), open_slide(path) as slide, OpenSlideSlide(path) as reference:
        assert slide.reader == "OpenSlide (aperio)"
        assert reason in caplog.text
        np.testing.assert_array_equal(put_together(slide), all_of(reference))


def test_a_damaged_aperio_tile_is_named(tmp_path):
    path = write_jpeg_svs(tmp_path / "slide.svs", [waves(100, 100)])
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[1]
    data = bytearray(path.read_bytes())
    data[offset : offset + 2] = b"xx"
    path.write_bytes(data)
    with open_slide(path) as slide, pytest.raises(SlideError, match=r"slide\.svs: tile 1 cannot be decoded"):
        tile(slide, 0, 1, 0)


@pytest.mark.parametrize("kind", ["tif", "svs", "openslide", "photo"])
def test_threads_get_the_tiles_that_one_alone_gets(tmp_path, kind):
    image, path = waves(600, 700), tmp_path / "slide"
    if kind == "photo":
        Image.fromarray(waves(1200, 1400)).save(path, "PNG")
    elif kind == "svs":
        write_jpeg_svs(path, [image, image[::2, ::2].copy()])
    else:
        write_tiled(path, image, compression="jpeg")
    opened = OpenSlideSlide if kind == "openslide" else open_slide
    with opened(path) as slide:
        places = [(level, *place) for level in range(len(slide.tile_px)) for place in tiles_of(slide, level)]
        alone = {place: tile(slide, *place).copy() for place in places}
    wanted = [places[i] for i in RNG.integers(0, len(places), 400)]  # the same tiles several times at once
    with opened(path) as slide, ThreadPoolExecutor(8) as pool:
        for place, pixels in zip(wanted, pool.map(lambda place: tile(slide, *place), wanted), strict=True):
            np.testing.assert_array_equal(pixels, alone[place])


def test_every_pixel_of_a_real_jpeg_svs_equals_openslide(real_data):
    path = real_data / "slides" / "CMU-1-Small-Region.svs"
    with open_slide(path) as slide, OpenSlideSlide(path) as reference:
        assert (slide.reader, slide.tile_px) == ("tifffile (aperio)", ((240, 240),))
        np.testing.assert_array_equal(put_together(slide), all_of(reference))


def test_every_pixel_of_a_real_jpeg_2000_svs_equals_openslide(real_data):
    # Exactly: both decode through OpenJPEG, and RGB needs no arithmetic after it.
    path = real_data / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    with open_slide(path) as slide, OpenSlideSlide(path) as reference:
        assert (slide.reader, slide.tile_px) == ("tifffile (aperio)", ((256, 256),) * 2)
        assert slide.level_downsamples == reference.level_downsamples
        np.testing.assert_array_equal(put_together(slide), all_of(reference))
