from dataclasses import FrozenInstanceError

import pytest

from tissuary.heads.protocols.changes import with_preprocessing
from tissuary.heads.protocols.named import PROTOCOLS, get_protocol
from tissuary.store.errors import ProtocolError


def test_strict_is_the_written_protocol():
    strict = get_protocol("strict")
    assert (strict.split, strict.panel, strict.panel_size, strict.target) == ("patient", "heg", 250, "log1p-cp10k")
    assert (strict.feature_standardisation, strict.target_centring, strict.spot_weight) == ("slide", "slide", "depth")
    assert strict.leaks == ()
    assert any("transductive features" in line for line in strict.declares)


def test_strict_slide_differs_in_its_split_and_says_what_leaks():
    strict, slide = get_protocol("strict"), get_protocol("strict-slide")
    assert slide.split == "slide"
    assert "no test of generalisation" in slide.leaks[0]
    assert (slide.panel, slide.target, slide.headline) == (strict.panel, strict.target, strict.headline)


def test_the_registry_is_keyed_by_name():
    assert {name: protocol.name for name, protocol in PROTOCOLS.items()} == {name: name for name in PROTOCOLS}


def test_an_unknown_protocol_names_the_valid_ones():
    with pytest.raises(ProtocolError, match=r"no protocol 'lenient': there are strict, strict-slide"):
        get_protocol("lenient")


def test_records_do_not_change():
    with pytest.raises(FrozenInstanceError):
        get_protocol("strict").panel_size = 10


def test_declarations_follow_the_preprocessing():
    strict = get_protocol("strict")
    raw = with_preprocessing(strict, feature_standardisation="none")
    assert not any("transductive" in line for line in raw.declares)
    assert (raw.target_centring, raw.spot_weight) == ("slide", "depth")
    assert with_preprocessing(raw, feature_standardisation="slide") == strict
    assert with_preprocessing(strict, spot_weight="none", target_centring="none").declares == strict.declares
