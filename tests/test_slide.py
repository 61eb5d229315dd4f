import errno
import math
import re
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from tissuary.featurize.ingest import slide_record
from tissuary.featurize.slides.open import open_slide
from tissuary.featurize.slides.openslide_ import OpenSlideSlide
from tissuary.featurize.sources.sample import Sample
from tissuary.store.errors import ScaleError, SlideError
from tissuary.store.files.slide import read_slide, write_slide
from tissuary.store.scale import Scale

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (600, 800, 3), dtype=np.uint8)


def tissue(height=600, width=800):
    """Smooth colours, so that JPEG has something to keep."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(x / a + y / b) for a, b in ((37, 53), (23, 91), (71, 29))]
    return np.stack(waves, axis=-1).astype(np.uint8)


def halved(image):
    """2 x 2 means by hand; an odd last row or column is the mean of what is there."""
    height, width = image.shape[:2]
    padded = np.pad(image.astype(float), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    blocks = padded.reshape(math.ceil(height / 2), 2, math.ceil(width / 2), 2, 3)
    return np.floor(blocks.mean(axis=(1, 3)) + 0.5).astype(np.uint8)


def write_pyramid(path, image, *, subifds=False, mpp=None, **options):
    """Two levels, the second the 2 x 2 means of the first."""
    options = {"photometric": "rgb", "tile": (128, 128), "metadata": None} | options
    if mpp is not None:
        options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, subifds=1 if subifds else None, **options)
        tiff.write(halved(image), subfiletype=1, **options)
    return path


def write_tiff(path, image, **options):
    tifffile.imwrite(path, image, **({"metadata": None} | options))
    return path


def save(path, image, **options):
    Image.fromarray(image).save(path, **options)
    return path


def all_of(slide, level=0):
    return slide.read(level, 0, 0, *slide.level_dimensions[level])


@pytest.mark.parametrize("compression", [None, "zlib", "jpeg"])
def test_openslide_and_tifffile_read_the_same_pixels(tmp_path, compression):
    path = write_pyramid(tmp_path / "slide.tif", tissue(), compression=compression)
    with open_slide(path) as by_tifffile, OpenSlideSlide(path) as by_openslide:
        assert (by_tifffile.reader, by_openslide.reader) == ("tifffile", "OpenSlide (generic-tiff)")
        assert by_tifffile.level_dimensions == by_openslide.level_dimensions == ((800, 600), (400, 300))
        assert by_tifffile.level_downsamples == by_openslide.level_downsamples == (1.0, 2.0)
        for box in [(0, 0, 0, 800, 600), (0, 101, 67, 300, 200), (1, 0, 0, 400, 300), (1, 129, 7, 255, 131)]:
            np.testing.assert_array_equal(by_tifffile.read(*box), by_openslide.read(*box))


def test_a_lossless_pyramid_gives_what_was_written(tmp_path):
    with open_slide(write_pyramid(tmp_path / "slide.tif", NOISE)) as slide:
        assert (slide.width, slide.height) == (800, 600)
        np.testing.assert_array_equal(slide.read(0, 130, 250, 77, 33), NOISE[250:283, 130:207])
        np.testing.assert_array_equal(slide.read(1, 399, 299, 1, 1), halved(NOISE)[299:, 399:])


@pytest.mark.parametrize("subifds", [False, True])
def test_a_pyramid_of_uneven_steps_is_seen_whole_and_a_label_is_not_of_it(tmp_path, subifds):
    path, steps = tmp_path / "slide.tif", (1, 4, 8, 40)
    options = {"photometric": "rgb", "tile": (64, 64), "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        for i, step in enumerate(steps):
            of = 3 if subifds and not i else None
            tiff.write(NOISE[::step, ::step], subfiletype=int(i > 0), subifds=of, **options)
        tiff.write(NOISE[:200, :200], subfiletype=1, **options)
    with open_slide(path) as slide:
        assert slide.level_downsamples == (1.0, 4.0, 8.0, 40.0)
        np.testing.assert_array_equal(all_of(slide, 3), NOISE[::40, ::40])


def test_a_pyramid_in_subifds_is_seen(tmp_path):
    path = write_pyramid(tmp_path / "slide.tif", NOISE, subifds=True)
    assert openslide.OpenSlide(path).level_count == 1  # why such files are not left to OpenSlide
    with open_slide(path) as slide:
        np.testing.assert_array_equal(all_of(slide, 1), halved(NOISE))


@pytest.mark.parametrize(
    ("large", "small", "downsample"),
    [
        ((3999, 3999), (1000, 1000), 3.999),
        ((4001, 1000), (1000, 250), 4.0005),
        ((1495, 1495), (500, 500), 2.99),
        ((3999, 1999), (125, 62), (3999 / 125 + 1999 / 62) / 2),
    ],
)
def test_downsamples_are_not_rounded(tmp_path, large, small, downsample):
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as tiff:
        for level, (width, height) in enumerate((large, small)):
            image = np.zeros((height, width), dtype=np.uint8)
            tiff.write(image, photometric="minisblack", tile=(128, 128), metadata=None, subfiletype=level)
    with open_slide(path) as slide, OpenSlideSlide(path) as reference:
        assert slide.level_downsamples == pytest.approx((1.0, downsample), rel=1e-12)
        assert reference.level_downsamples == pytest.approx((1.0, downsample), rel=1e-12)


def test_levels_with_fractional_downsample_are_not_interpolated(tmp_path):
    image, small = NOISE[:599, :799], NOISE[:299, :399]
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, photometric="rgb", tile=(128, 128), metadata=None)
        tiff.write(small, photometric="rgb", tile=(128, 128), metadata=None, subfiletype=1)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(1, 333, 201, 50, 40), small[201:241, 333:383])


@pytest.mark.parametrize("planes", ["chunky", "planar", "pages", "grey"])
def test_colours_in_any_arrangement(tmp_path, planes):
    path, tiles, expected = tmp_path / "slide.ome.tif", {"tile": (128, 128)}, NOISE
    if planes == "chunky":
        tifffile.imwrite(path, NOISE, photometric="rgb", metadata={"axes": "YXS"}, **tiles)
    elif planes == "planar":
        image = np.moveaxis(NOISE, -1, 0)
        tifffile.imwrite(path, image, photometric="rgb", planarconfig="separate", metadata={"axes": "SYX"}, **tiles)
    elif planes == "pages":
        image = np.moveaxis(NOISE, -1, 0)
        tifffile.imwrite(path, image, photometric="minisblack", metadata={"axes": "CYX"}, **tiles)
    else:
        tifffile.imwrite(path, NOISE[..., 0], photometric="minisblack", metadata={"axes": "YX"}, **tiles)
        expected = NOISE[..., [0, 0, 0]]
    with open_slide(path) as slide:
        assert slide.reader == "tifffile"
        np.testing.assert_array_equal(all_of(slide), expected)
        np.testing.assert_array_equal(slide.read(0, 100, 90, 200, 300), expected[90:390, 100:300])


@pytest.mark.parametrize("tile", [None, (128, 128)])
def test_an_extra_sample_is_opacity_only_where_it_says_so(tmp_path, tile):
    image = np.dstack([NOISE, np.zeros(NOISE.shape[:2], dtype=np.uint8)])
    for extra, expected in (("unassalpha", np.full_like(NOISE, 255)), ("unspecified", NOISE)):
        path = write_tiff(tmp_path / f"{extra}.tif", image, photometric="rgb", extrasamples=[extra], tile=tile)
        with open_slide(path) as slide:
            np.testing.assert_array_equal(all_of(slide), expected)


def test_a_tiff_without_tiles_is_held_in_memory(tmp_path):
    path = write_tiff(tmp_path / "strips.tif", NOISE, photometric="rgb", rowsperstrip=16)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(all_of(slide), NOISE)
        np.testing.assert_array_equal(all_of(slide, 1), halved(NOISE))


def test_tiles_that_are_left_out_are_white(tmp_path):
    path = write_pyramid(tmp_path / "slide.tif", NOISE)
    with tifffile.TiffFile(path) as tiff:
        counts = tiff.pages[0].tags["TileByteCounts"]
        sparse = (0, *counts.value[1:])
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["TileByteCounts"].overwrite(sparse)
    expected = NOISE.copy()
    expected[:128, :128] = 255
    with open_slide(path) as slide:
        np.testing.assert_array_equal(all_of(slide), expected)


@pytest.mark.parametrize(
    ("options", "mpp"),
    [
        ({"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}, 0.5),
        ({"resolution": (50800, 50800), "resolutionunit": "INCH"}, 0.5),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, 25400 / 72),  # print resolution: judged by resolve_scale
        ({"resolution": (20000, 20000), "resolutionunit": "NONE"}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("tile", [None, (128, 128)])
def test_um_per_px_of_tiff_tags(tmp_path, options, mpp, tile):
    path = write_tiff(tmp_path / "slide.tif", NOISE, photometric="rgb", tile=tile, **options)
    with open_slide(path) as slide:
        assert slide.metadata_mpp == (mpp if mpp is None else pytest.approx(mpp, rel=1e-6))


@pytest.mark.parametrize(("unit", "size"), [("µm", 0.25), ("nm", 250), ("mm", 0.00025)])
def test_um_per_px_of_ome(tmp_path, unit, size):
    path = tmp_path / "slide.ome.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size}
    metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(path, NOISE, photometric="rgb", tile=(128, 128), metadata=metadata)
    with open_slide(path) as slide:
        assert slide.metadata_mpp == pytest.approx(0.25)


def test_um_per_px_of_imagej(tmp_path):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, NOISE, imagej=True, resolution=(4, 4), metadata={"unit": "um", "axes": "YXS"})
    with open_slide(path) as slide:
        assert slide.metadata_mpp == pytest.approx(0.25)


def test_pixels_must_be_square(tmp_path):
    path = write_tiff(
        tmp_path / "s.tif", NOISE, photometric="rgb", resolution=(20000, 15000), resolutionunit="CENTIMETER"
    )
    with pytest.raises(ScaleError, match=r"0\.5 um/px across and 0\.66\d+ um/px down; pixels must be square"):
        open_slide(path)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_dpi_of_a_photo_is_never_a_scale(tmp_path, ending):
    path = save(tmp_path / f"photo.{ending}", tissue(), dpi=(25400, 25400))
    with open_slide(path) as slide:
        assert slide.metadata_mpp is None
        assert slide.reader == "imagecodecs"


def test_a_jpeg_is_what_its_decoder_says(tmp_path):
    path = save(tmp_path / "photo.jpg", tissue(601, 1203), quality=90)
    with open_slide(path) as slide, Image.open(path) as image:
        np.testing.assert_array_equal(all_of(slide), np.asarray(image))


def test_the_ending_of_a_name_does_not_matter(tmp_path):
    path = save(tmp_path / "photo.tif", tissue(), format="JPEG")
    with open_slide(path) as slide:
        assert slide.reader == "imagecodecs"


def test_the_pyramid_in_memory_is_of_exact_means(tmp_path):
    image = RNG.integers(0, 256, (1101, 2203, 3), dtype=np.uint8)
    with open_slide(save(tmp_path / "photo.png", image)) as slide:
        assert slide.level_downsamples == (1.0, 2.0, 4.0, 8.0)
        assert slide.level_dimensions == ((2203, 1101), (1102, 551), (551, 276), (276, 138))
        np.testing.assert_array_equal(all_of(slide, 2), halved(halved(image)))
        np.testing.assert_array_equal(all_of(slide, 1), halved(image))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_photos_of_any_kind_become_rgb(tmp_path, mode):
    image = Image.fromarray(tissue(40, 50)).convert(mode)
    image.save(tmp_path / "photo.png")
    with open_slide(tmp_path / "photo.png") as slide:
        np.testing.assert_array_equal(all_of(slide), np.asarray(image.convert("RGB")))


def test_transparent_pixels_are_laid_on_white(tmp_path):
    image = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 100, 200, 51]]], dtype=np.uint8)
    with open_slide(save(tmp_path / "photo.png", image)) as slide:
        # 51 / 255 is one fifth: four fifths of white are 204.
        assert all_of(slide).tolist() == [[[255, 255, 255], [10, 20, 30], [204, 224, 244]]]


@pytest.mark.parametrize("kind", ["tiled", "photo"])
def test_threads_read_the_same_as_one_alone(tmp_path, kind):
    image = tissue(1500, 1700)
    if kind == "tiled":
        path = write_pyramid(tmp_path / "slide.tif", image, compression="jpeg")
    else:
        path = save(tmp_path / "photo.png", image)
    boxes = [(int(level), int(x), int(y), 90, 80) for level, x, y in RNG.integers(0, [2, 700, 600], (300, 3))]
    with open_slide(path) as slide:
        whole = [all_of(slide, level) for level in (0, 1)]
    alone = [whole[level][y : y + h, x : x + w] for level, x, y, w, h in boxes]
    with open_slide(path) as slide, ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda box: slide.read(*box), boxes))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_was_read_can_be_written_to(tmp_path):
    with open_slide(save(tmp_path / "photo.png", NOISE)) as slide:
        slide.read(0, 0, 0, 20, 20)[:] = 0
        np.testing.assert_array_equal(all_of(slide), NOISE)


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, -1, 5, 5), (796, 0, 5, 5), (0, 598, 5, 5), (0, 0, 0, 5)])
@pytest.mark.parametrize("kind", ["tifffile", "openslide", "photo"])
def test_a_region_must_lie_inside(tmp_path, kind, box):
    path = save(tmp_path / "s.png", NOISE) if kind == "photo" else write_pyramid(tmp_path / "s.tif", NOISE)
    with OpenSlideSlide(path) if kind == "openslide" else open_slide(path) as slide:
        with pytest.raises(SlideError, match="leaves level 0, which has 800 x 600 px"):
            slide.read(0, *box)
        with pytest.raises(SlideError, match="has levels 0 to 1; level 2 was asked for"):
            slide.read(2, 0, 0, 1, 1)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(SlideError, match=r"gone\.svs does not exist"):
        open_slide(tmp_path / "gone.svs")
    with pytest.raises(SlideError, match="is a folder, not an image"):
        open_slide(tmp_path)
    (tmp_path / "text.svs").write_text("hello")
    (tmp_path / "empty.tif").touch()
    for name, size in (("text.svs", 5), ("empty.tif", 0)):
        with pytest.raises(SlideError, match=rf"{re.escape(name)} \({size} bytes\) is no format that"):
            open_slide(tmp_path / name)


@pytest.mark.parametrize("name", ["n" * 300 + ".tif", "/".join(["n" * 200] * 30)])
def test_a_name_that_is_too_long(tmp_path, name):
    with pytest.raises(SlideError, match=r"cannot be read \(File name too long\): correct the path") as caught:
        open_slide(tmp_path / name)
    assert caught.value.filename is None


@pytest.mark.parametrize("method", ["is_file", "open"])
@pytest.mark.parametrize("name", ["s.tif", "s.png", "s.svs"])
def test_an_image_that_may_not_be_read(tmp_path, monkeypatch, name, method):
    path = tmp_path / name
    write_pyramid(path, NOISE) if name != "s.png" else save(path, NOISE)

    def refuse(self, *args, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(SlideError, match=rf"{name} cannot be read \(Permission denied\).*permission to read it"):
        open_slide(path)


def test_a_photo_whose_bytes_do_not_come(tmp_path, monkeypatch):
    def fail(self):
        raise OSError(errno.EIO, "Input/output error")

    path = save(tmp_path / "s.jpg", NOISE)
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(SlideError, match=r"s\.jpg cannot be read \(Input/output error\)"):
        open_slide(path)


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_jpeg_is_refused(tmp_path, share):
    # With a thumbnail inside, which has an end of its own.
    thumbnail = imagecodecs.jpeg8_encode(tissue(40, 50))
    data = imagecodecs.jpeg8_encode(NOISE)
    path = tmp_path / "photo.jpg"
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:])
    open_slide(path).close()
    with pytest.raises(SlideError, match=r"photo\.jpg (is truncated|has a damaged header|cannot be decoded)"):
        open_slide(cut(path, share))


def test_a_truncated_png_is_refused(tmp_path):
    with pytest.raises(SlideError, match=r"photo\.png cannot be decoded"):
        open_slide(cut(save(tmp_path / "photo.png", NOISE), 0.5))


@pytest.mark.parametrize("tile", [None, (128, 128)])
@pytest.mark.parametrize("compression", [None, "zlib", "jpeg"])
def test_a_truncated_tiff_is_refused(tmp_path, tile, compression):
    path = cut(write_tiff(tmp_path / "slide.tif", NOISE, photometric="rgb", tile=tile, compression=compression), 0.5)
    cause = r"slide\.tif(: tile \d+)? (is truncated|cannot be (opened|decoded|read))"
    with pytest.raises(SlideError, match=cause), open_slide(path) as slide:
        all_of(slide)
    with pytest.raises(SlideError, match="cannot be opened as TIFF"):
        open_slide(cut(path, 0.00002))


def test_a_damaged_tile_is_named_and_the_others_are_read(tmp_path):
    path = write_tiff(tmp_path / "slide.tif", NOISE, photometric="rgb", tile=(128, 128), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset, size = tiff.pages[0].dataoffsets[3], tiff.pages[0].databytecounts[3]
    data = bytearray(path.read_bytes())
    data[offset : offset + size] = b"\x55" * size
    path.write_bytes(data)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 0, 384, 600), NOISE[:, :384])
        with pytest.raises(SlideError, match="tile 3 cannot be decoded"):
            slide.read(0, 384, 0, 10, 10)


def test_pages_that_go_in_circles_are_refused(tmp_path):
    path = write_tiff(tmp_path / "slide.tif", NOISE, photometric="rgb")
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages[0].offset
    data = bytearray(path.read_bytes())
    (entries,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * entries, start)  # the next page is this one
    path.write_bytes(data)
    with pytest.raises(SlideError, match=rf"page at byte {start} comes again and again"):
        open_slide(path)


def test_a_damaged_scanner_file_is_refused(tmp_path):
    path = write_tiff(tmp_path / "slide.svs", NOISE, photometric="rgb", tile=(128, 128), description="Aperio Image")
    with OpenSlideSlide(path) as slide:
        np.testing.assert_array_equal(slide.read(0, 5, 6, 30, 20), NOISE[6:26, 5:35])
        (tmp_path / "emptied.svs").write_bytes(path.read_bytes())
    with OpenSlideSlide(tmp_path / "emptied.svs") as slide:
        (tmp_path / "emptied.svs").write_bytes(b"")
        with pytest.raises(SlideError, match="level 0 at x=0 y=0 cannot be read"):
            slide.read(0, 0, 0, 10, 10)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["TileOffsets"].overwrite([10**9] * len(tiff.pages[0].dataoffsets))
    with pytest.raises(SlideError, match=r"slide\.svs cannot be opened by OpenSlide .*Short read"):
        open_slide(path)
    (tmp_path / "text.svs").write_text("hello")
    with pytest.raises(SlideError, match="cannot be opened by OpenSlide"):
        OpenSlideSlide(tmp_path / "text.svs")


def test_other_depths_and_kinds_are_refused(tmp_path):
    deep = write_tiff(tmp_path / "deep.tif", NOISE.astype(np.uint16), photometric="rgb", tile=(128, 128))
    with pytest.raises(SlideError, match="holds uint16; wanted 8-bit"):
        open_slide(deep)
    Image.fromarray(NOISE[..., 0].astype(np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(SlideError, match="holds uint16 of shape"):
        open_slide(tmp_path / "deep.png")
    stack = write_tiff(tmp_path / "stack.ome.tif", NOISE[:5, :300], metadata={"axes": "ZYX"}, photometric="minisblack")
    with pytest.raises(SlideError, match=r"axes ZYX of shape .* in .*MINISBLACK; wanted one plane"):
        open_slide(stack)
    Image.fromarray(tissue()).convert("CMYK").save(tmp_path / "print.jpg")
    with pytest.raises(SlideError, match=r"print\.jpg cannot be decoded .*not 8-bit grey or RGB"):
        open_slide(tmp_path / "print.jpg")


def test_an_image_that_claims_to_be_huge_is_refused_unread(tmp_path):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(SlideError, match=r"100000 x 100000 px in one piece.*tiled, pyramidal TIFF"):
        open_slide(path)


def test_real_scanner_slides(real_data):
    with open_slide(real_data / "slides" / "CMU-1-Small-Region.svs") as slide:
        assert (slide.width, slide.height, slide.metadata_mpp) == (2220, 2967, 0.499)
        assert slide.reader == "tifffile (aperio)"
    path = real_data / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    with open_slide(path) as slide, tifffile.TiffFile(path) as tiff:
        assert slide.metadata_mpp is None  # never guessed
        assert slide.level_downsamples == pytest.approx((1.0, (4443 / 2221 + 3567 / 1783) / 2), rel=1e-12)
        np.testing.assert_array_equal(all_of(slide, 1), tiff.series[0].levels[1].asarray())


def test_a_real_photo_of_a_section(real_data):
    (path,) = (real_data / "her2st/data/ST-imgs/C/C2").glob("*.jpg")
    with open_slide(path) as slide:
        assert (slide.width, slide.height, slide.metadata_mpp) == (9274, 9911, None)
        region = slide.read(0, 4001, 3003, 64, 32)
        expected = imagecodecs.jpeg8_decode(path.read_bytes())[3003:3035, 4001:4065]
        np.testing.assert_array_equal(region, expected)
        assert slide.read(2, 1000, 751, 16, 8).shape == (8, 16, 3)


def write_scn(path, pixels):
    """A Leica SCN of 900 x 1200 px, of which the scanner filled 300 x 400 at (200, 500); 0.5 um/px."""

    def image(size_nm, at_nm, size_px, ifd, objective):
        (w, h), (x, y), (width, height) = size_nm, at_nm, size_px
        return (
            '<image name="i" uuid="u"><creationDate>2020-01-01T00:00:00Z</creationDate>'
            f'<device model="Leica SCN400;" version="1"/><pixels sizeX="{width}" sizeY="{height}">'
            f'<dimension sizeX="{width}" sizeY="{height}" r="0" ifd="{ifd}"/></pixels>'
            f'<view sizeX="{w}" sizeY="{h}" offsetX="{x}" offsetY="{y}" spacingZ="0"/><scanSettings>'
            f"<objectiveSettings><objective>{objective}</objective></objectiveSettings><illuminationSettings>"
            "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
            "</illuminationSettings></scanSettings></image>"
        )

    overview = image((450_000, 600_000), (0, 0), (90, 120), 0, 1)
    scanned = image((150_000, 200_000), (100_000, 250_000), (300, 400), 1, 20)
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="s">'
        f'<collection name="c" uuid="c" sizeX="450000" sizeY="600000">{overview}{scanned}</collection></scn>'
    )
    options = {"tile": (128, 128), "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(np.full((120, 90, 3), 240, np.uint8), description=xml, **options)
        tiff.write(pixels, **options)
    return path


def test_which_part_of_a_slide_the_scanner_filled_is_kept(tmp_path):
    pixels = tissue(400, 300)
    with open_slide(write_scn(tmp_path / "s.scn", pixels)) as slide:
        assert (slide.width, slide.height, slide.bounds_px) == (900, 1200, (200, 500, 300, 400))
        np.testing.assert_array_equal(slide.read(0, 200, 500, 300, 400), pixels)
        scale = Scale(0.5, "metadata", {"metadata": 0.5})
        record = slide_record(Sample("s", "P", tmp_path / "s.scn"), slide, scale)
    write_slide(tmp_path / "s.h5", record, thumbnail=None)
    assert read_slide(tmp_path / "s.h5") == record
    with open_slide(save(tmp_path / "photo.png", NOISE)) as photo:
        assert photo.bounds_px is None
