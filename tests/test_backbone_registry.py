"""The registry: every record is whole, keys tell variants apart, and what can be built has the published size."""

import json
from functools import cache

import pytest
import torch

from tissuary.featurize.backbones.architectures import build_architecture
from tissuary.featurize.backbones.build import build_encoder
from tissuary.featurize.backbones.encoder import Pooled
from tissuary.featurize.backbones.fingerprint import fingerprint_of
from tissuary.featurize.backbones.record import BackboneRecord
from tissuary.featurize.backbones.registry import BACKBONES, UNAVAILABLE, get_record
from tissuary.store.errors import BackboneError
from tissuary.store.naming import FeatureKey

BUILT = [key for key, record in BACKBONES.items() if record.loader in ("timm", "transformers", "custom")]
REMOTE = [key for key, record in BACKBONES.items() if record.loader == "remote"]


@pytest.mark.parametrize("key", BACKBONES)
def test_a_record_is_whole(key):
    record = BACKBONES[key]
    assert record.key == key
    assert FeatureKey.parse(f"{key}@20x").encoder == key
    assert BackboneRecord.from_json(record.to_json()) == record
    assert record.licence in record.terms
    assert ("must be asked for" in record.terms) == record.gated
    assert record.hub_id or record.loader == "embedded" or key.startswith("ctranspath")


def test_no_key_hides_another():
    from tissuary.featurize.backbones.models import controls as models_controls
    from tissuary.featurize.backbones.models import dino as models_dino
    from tissuary.featurize.backbones.models import remote as models_remote
    from tissuary.featurize.backbones.models import timm_ as models_timm
    from tissuary.featurize.backbones.models import transformers_ as models_transformers

    families = (models_controls, models_dino, models_remote, models_timm, models_transformers)
    assert sum(len(family.MODELS) for family in families) == len(BACKBONES)
    assert not set(BACKBONES) & set(UNAVAILABLE)


def test_only_seen_revisions_are_pinned():
    pinned = {key.split(".")[0] for key, record in BACKBONES.items() if record.revision}
    assert pinned == {"uni", "rudolfv2", "rudolfv2-b", "rudolfv2-s", "mascaret", "phaet"}


# One model under one name gives different vectors in different tools: each way has its key.
@pytest.mark.parametrize(
    "keys",
    [
        ("virchow.cls", "virchow.cls+mean"),
        ("h-optimus-0", "h-optimus-0-bilinear"),
        ("h-optimus-1", "h-optimus-1-bilinear"),
        ("h0-mini.cls", "h0-mini.cls+mean"),
        ("lunit-dino-s8", "lunit-dino-s8-imagenet"),
        ("lunit-dino-s16", "lunit-dino-s16-imagenet"),
        ("midnight-12k.cls", "midnight-12k.cls+mean"),
        ("conch-v1.unprojected", "conch-v1.projected", "conch-v1-224.unprojected"),
        ("hibou-l.cls", "hibou-l.pooler"),
        ("musk.cls", "musk.multiscale", "musk.projected"),
        ("genbio-pathfm", "genbio-pathfm-bilinear"),
        ("rudolfv2.cls", "rudolfv2.cls+mean"),
    ],
)
def test_variants_of_a_model_share_weights_and_no_fingerprint(keys):
    records = [BACKBONES[key] for key in keys]
    assert len({record.hub_id for record in records}) == 1
    assert len({fingerprint_of(record, "the same weights") for record in records}) == len(keys)


# What stores hold already: features of these backbones stay usable.
@pytest.mark.parametrize(
    ("key", "fingerprint"),
    [
        ("stain-texture", "8a7d8079868d42ff33ab262ac023405a8d2b1f7e28604a6690d404d91b89cc4a"),
        ("haematoxylin", "ec105064bcfc7fa7484bbe00f0a9d4365bfa9ae4d092269a75547cc06533f22c"),
        ("uni", "5bcaf6fc18a35a1ed874602e5ab3502d9c47c39a2d5fffcfde2fd44d2cd57a7f"),
        ("uni2-h", "0cd06fbe6eba5a2994a0c60a96d5c29799bf912605acd6843f552af91f8a1624"),
        ("virchow2.cls+mean", "05cb39838eb7c75182f8d7cbc49518fc95509cf927066a418c0f4286891bd1f7"),
        ("h-optimus-0", "fc4790f9b5d7a7dee71e52970a3b8a2f3e4433552379fd589b02502fe3c9f0db"),
        ("h0-mini.cls", "bcec6ec3f5a64a31bee85f3855634999fa5782fc07b6ecb13aeb5316407062c8"),
        ("prov-gigapath", "7bfee44eb9267c914407cc93c1eba73b074cfb22c5b95f015976509a15ebf51f"),
        ("lunit-dino-s16", "ad604996be7dd2d43d2509716ed9a73134271313039843cab07d414ce5dd91ba"),
        ("kaiko-vitb16", "925285e62f1023d794fb5a16e906f3a5c5b86169a97976f311841d361485f225"),
        ("resnet50", "24ff2965305709aaf214bf161a2cafb7f47fc71d30e9e5e9c170e092318aede7"),
    ],
)
def test_fingerprints_stay(key, fingerprint):
    assert fingerprint_of(BACKBONES[key], "d") == fingerprint


def test_names_that_cannot_be_had_say_why():
    for name, why in UNAVAILABLE.items():
        with pytest.raises(BackboneError, match=f"'{name}' is known but cannot be used: ") as error:
            get_record(name)
        assert why in str(error.value)
    with pytest.raises(BackboneError, match=r"'Atlas' is known .* open sibling is rudolfv2"):
        get_record("Atlas")
    with pytest.raises(BackboneError, match=r"did you mean conch-v1\.unprojected or conch-v1\.projected\?"):
        get_record("conch-v1")


# Building


@cache
def on_meta(loader, architecture, options):
    """Shapes only, without memory; built once, and run once, for all records of an architecture."""
    same = (record for record in BACKBONES.values() if (record.loader, record.architecture) == (loader, architecture))
    record = next(record for record in same if json.dumps(record.architecture_options) == options)
    with torch.device("meta"):
        model = build_architecture(record)
        if not record.architecture_options.get("features_only"):
            features = model.forward_features(torch.empty(2, 3, record.input_px, record.input_px))
            model.forward_features = lambda x: features
    return model


@pytest.mark.parametrize("key", BUILT)
def test_what_is_built_has_the_published_size_and_dimension(key):
    record = BACKBONES[key]
    model = on_meta(record.loader, record.architecture, json.dumps(record.architecture_options))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    if key == "openmidnight":  # published as 1.1 B
        assert round(millions, -2) == record.parameters_m
    elif record.parameters_m is not None:
        assert millions == pytest.approx(record.parameters_m, rel=0.02)
    x = torch.empty(2, 3, record.input_px, record.input_px, device="meta")
    vectors, tokens = Pooled(model, record).both(x)
    assert vectors.shape == (2, record.dim)
    assert tokens.shape[:2] == (2, record.token_grid[0] * record.token_grid[1])
    if record.prefix_tokens:
        assert model.forward_features(x).shape[1] == record.prefix_tokens + tokens.shape[1]


@pytest.mark.parametrize("key", ["lunit-dino-s16", "gigapath-flash", "resnet50", "plip"])
def test_random_weights_run(key):
    record = BACKBONES[key]
    encoder = build_encoder(record, weights="random")
    x = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = encoder.encode(x)
    assert encoder.record.key == f"{key}+random0"
    assert encoder.record.revision is None
    assert found.shape == (2, record.dim)
    assert torch.isfinite(found).all()
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("key", REMOTE)
@pytest.mark.parametrize("weights", [None, "random"])
def test_remote_code_is_not_run(key, weights):
    with pytest.raises(BackboneError, match=r"cannot be built here: .* runs no code that comes with weights") as error:
        build_encoder(BACKBONES[key], weights=weights)
    assert BACKBONES[key].needs in str(error.value)
