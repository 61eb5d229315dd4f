"""Names that become paths, and the grammar of feature keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tissuary.store.errors import InvalidNameError
from tissuary.store.naming import FeatureKey, check_name, feature_key


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("stain-texture@20x", ("stain-texture", None, "20x", None)),
        ("virchow2.cls+mean@112um-0.5", ("virchow2", "cls+mean", "112um-0.5", None)),
        ("uni2-h@20x.grid7x7", ("uni2-h", None, "20x", "grid7x7")),
        ("stain-texture@20x.tiles4x4", ("stain-texture", None, "20x", "tiles4x4")),
        ("vit_small+random0@20x", ("vit_small+random0", None, "20x", None)),
        ("uni2-h@112um-0.5.grid7x7", ("uni2-h", None, "112um-0.5", "grid7x7")),
        ("m@native", ("m", None, "native", None)),
    ],
)
def test_documented_keys_read_and_print_as_they_are(text, parts):
    key = FeatureKey.parse(text)
    assert (key.backbone, key.pooling, key.view, key.layout) == parts
    assert str(key) == text


@pytest.mark.parametrize("text", ["", "@20x", "a@", "a@30x", "a/b@20x", "../a@20x", "a@20x/..", "a b@20x", "a@20x.foo"])
def test_other_keys_are_refused(text):
    with pytest.raises(InvalidNameError, match="does not read as"):
        FeatureKey.parse(text)


def test_encoder_is_what_stands_before_the_view():
    assert FeatureKey.parse("virchow2.cls+mean@20x").encoder == "virchow2.cls+mean"
    assert feature_key("uni2-h", "20x", layout="grid7x7") == "uni2-h@20x.grid7x7"


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a\\b", "/etc", "a\n", " a", "a ", "x" * 201, "a\0"])
def test_names_that_could_leave_the_store_are_refused(name):
    with pytest.raises(InvalidNameError, match="cannot become a file name"):
        check_name(name, "slide id")


@given(st.text(max_size=30))
def test_a_name_that_passes_is_one_plain_path_component(tmp_path_factory, name):
    try:
        checked = check_name(name, "slide id")
    except InvalidNameError:
        return
    assert checked == name
    path = tmp_path_factory.getbasetemp() / checked
    assert path.parent == tmp_path_factory.getbasetemp()
    assert path.name == name
