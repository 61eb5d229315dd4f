"""Views: names to fields, and the refusal to invent resolution."""

import pytest

from tissuary.featurize.patches.views import check_upsampling, resolve_view, upsampling
from tissuary.store.errors import InvalidNameError, ScaleError


@pytest.mark.parametrize(
    ("name", "fov_um", "mpp", "side_px"),
    [
        ("20x", 112, 0.5, 224),
        ("10x", 224, 1, 224),
        ("5x", 448, 2, 224),
        ("28um-0.125", 28, 0.125, 224),
        ("224um-4.7", 224, 4.7, 48),
    ],
)
def test_names_mean_fields(name, fov_um, mpp, side_px):
    view = resolve_view(name, slide_mpp=0.3, input_px=224)
    assert (view.fov_um, view.mpp, view.side_px) == (fov_um, mpp, side_px)


def test_native_is_the_backbones_input_at_the_slides_own_scale():
    view = resolve_view("native", slide_mpp=4.6875, input_px=224)
    assert (view.fov_um, view.mpp, view.side_px) == (1050.0, 4.6875, 224)
    assert upsampling(view, 4.6875) == 1.0


@pytest.mark.parametrize("name", ["40x", "112-0.5", "um-1", "0um-1", "112um-0"])
def test_other_names_are_refused(name):
    with pytest.raises(InvalidNameError, match="does not read as <um>um-<um per px>"):
        resolve_view(name, slide_mpp=0.5, input_px=224)


def test_upsampling_is_recorded_up_to_twice_and_refused_beyond():
    view = resolve_view("20x", slide_mpp=0.69, input_px=224)
    assert check_upsampling(view, 0.69, layout="context") == pytest.approx(1.38)
    assert check_upsampling(view, 0.25, layout="context") == 1.0
    assert check_upsampling(view, 1.0, layout="context") == 2.0
    assert check_upsampling(view, 1.004, layout="context") == pytest.approx(2.008)  # um/px of tags are rounded
    with pytest.raises(ScaleError, match=r"up-sampled 2.04 times \(limit 2\)"):
        check_upsampling(view, 1.02, layout="context")
    with pytest.raises(ScaleError, match=r"up-sampled 9.40 times \(limit 2\).*--views 226um-4.7` or `--views native"):
        check_upsampling(view, 4.7, layout="context")
    assert check_upsampling(view, 4.7, layout="zoom") == pytest.approx(9.4)
