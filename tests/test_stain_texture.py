"""`stain-texture` and `haematoxylin`: numbers, symmetries, and what they must survive."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tissuary.featurize.backbones.build import build_encoder
from tissuary.featurize.backbones.registry import get_record
from tissuary.featurize.backbones.stain_texture import (
    PATTERNS,
    STAIN_RGB,
    band,
    coherence,
    gradients,
    label_counts,
    local_patterns,
    optical_density,
    percentiles,
    pyramid,
    stain_amounts,
)


@pytest.fixture(scope="module")
def encoder():
    return build_encoder(get_record("stain-texture"))


@pytest.fixture(scope="module")
def haematoxylin():
    return build_encoder(get_record("haematoxylin"))


def tissue(n, side=224, seed=0):
    """Pink ground with dark blue discs of nuclear size and noise, uint8 (n, 3, side, side)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    images = np.empty((n, 3, side, side))
    for image in images:
        image[:] = np.array([225, 165, 200])[:, None, None] + rng.normal(0, 6, (3, side, side))
        for cx, cy, r in zip(*rng.uniform(0, side, (2, 40)), rng.uniform(3, 8, 40), strict=True):
            image[:, (x - cx) ** 2 + (y - cy) ** 2 < r * r] *= np.array([0.45, 0.45, 0.75])[:, None]
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8))


def test_it_gives_at_least_256_finite_numbers_of_order_one(encoder):
    features = encoder.encode(tissue(8))
    assert features.shape == (8, encoder.dim)
    assert features.dtype == torch.float32
    assert encoder.dim >= 256
    assert features.isfinite().all()
    assert features.abs().max() < 10
    assert 0.3 < features.square().mean().sqrt() < 3


@pytest.mark.parametrize("value", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0), (0, 0, 255)])
def test_constant_patches_are_finite_and_of_order_one(encoder, value):
    patch = torch.tensor(value, dtype=torch.uint8)[None, :, None, None].expand(1, 3, 224, 224)
    features, tokens = encoder.encode(patch), encoder.tokens(patch)
    assert features.isfinite().all() and features.abs().max() < 12
    assert tokens.isfinite().all()
    assert (tokens - tokens[:, :1]).abs().max() < 1e-5  # every cell sees the same


def test_a_row_does_not_depend_on_its_batch(encoder):
    patches = tissue(17)
    alone = torch.cat([encoder.encode(patch[None]) for patch in patches])
    for batch in (2, 7, 8, 9, 17):
        assert (encoder.encode(patches[:batch]) - alone[:batch]).abs().max() <= 1e-6


def test_turned_and_mirrored_patches_give_the_same(encoder):
    patches = tissue(3)
    wanted = encoder.encode(patches)
    spread = encoder.encode(tissue(16, seed=1)).std(dim=0).clamp(min=1e-2)
    for mirrored in (patches, patches.flip(3)):
        for quarter_turns in range(4):
            found = encoder.encode(mirrored.rot90(quarter_turns, dims=(2, 3)))
            assert ((found - wanted).abs() / spread).max() < 0.02


def test_tokens_turn_with_the_patch(encoder):
    patches = tissue(2)
    grid = encoder.tokens(patches).view(2, 7, 7, -1)
    turned = encoder.tokens(patches.rot90(1, dims=(2, 3))).view(2, 7, 7, -1)
    torch.testing.assert_close(turned, grid.rot90(1, dims=(1, 2)), atol=1e-2, rtol=1e-2)


def test_a_token_comes_from_its_own_cell(encoder):
    patches = tissue(1)
    changed = patches.clone()
    changed[:, :, 64:96, 160:192] = 255 - changed[:, :, 64:96, 160:192]  # row 2, column 5
    before, after = encoder.tokens(patches), encoder.tokens(changed)
    assert before.shape == (1, 49, encoder.dim)
    moved = (before != after).any(dim=-1)[0].nonzero().flatten().tolist()
    assert moved == [2 * 7 + 5]


@pytest.mark.parametrize("side", [32, 48, 100, 225, 448])
def test_any_size_is_resized_to_its_own(encoder, side):
    features = encoder.encode(tissue(2, side=side))
    assert features.shape == (2, encoder.dim)
    assert features.isfinite().all()


def test_texture_and_colour_are_told_apart(encoder):
    """A shuffle of the pixels keeps the colours and takes the texture; the features know."""
    patches = tissue(1)
    order = torch.randperm(224 * 224, generator=torch.Generator().manual_seed(0))
    shuffled = patches.flatten(2)[..., order].view_as(patches)
    assert (encoder.encode(patches) - encoder.encode(shuffled)).abs().max() > 1


def test_an_empty_batch_gives_no_rows(encoder):
    assert encoder.encode(torch.zeros(0, 3, 224, 224, dtype=torch.uint8)).shape == (0, encoder.dim)


@given(hnp.arrays(np.uint8, (3, 3, 224, 224), elements=st.sampled_from([0, 1, 127, 254, 255]), fill=st.just(255)))
@settings(max_examples=5, deadline=None)
def test_no_pixels_break_it(encoder, pixels):
    features = encoder.encode(torch.from_numpy(pixels))
    assert features.isfinite().all()
    assert features.abs().max() < 50


def test_stains_that_were_mixed_are_found_again():
    amounts = np.array([0.7, 0.2, 0.0])
    density = torch.from_numpy(amounts @ np.array(STAIN_RGB)).float()
    image = (10**-density)[None, :, None, None].expand(1, 3, 32, 32)
    found = stain_amounts(optical_density(image))[0, :, 0, 0]
    assert found[:2].tolist() == pytest.approx([0.7, 0.2], abs=1e-5)
    assert float(found[2]) == pytest.approx(float(density.mean()), abs=1e-6)


def test_haematoxylin_is_the_mean_density_of_the_stain(haematoxylin):
    patches = tissue(2)
    density = -np.log10(np.maximum(patches.numpy(), 1) / 255.0)
    wanted = np.einsum("bchw,c->bhw", density, np.linalg.inv(np.array(STAIN_RGB))[:, 0]).mean(axis=(1, 2))
    found = haematoxylin.encode(patches)
    assert found.shape == (2, 1)
    assert found[:, 0].numpy() == pytest.approx(wanted, abs=1e-5)


def test_more_nuclei_mean_more_haematoxylin(haematoxylin):
    few, many = tissue(1), tissue(1)
    many[:, :, ::2] = torch.tensor([90, 70, 150], dtype=torch.uint8)[None, :, None, None]
    assert float(haematoxylin.encode(many)) > float(haematoxylin.encode(few)) + 0.1


def test_percentiles_agree_with_sorted_values_to_one_bin():
    values = torch.from_numpy(np.random.default_rng(0).normal(0.3, 0.2, (4, 2, 1000))).float()
    found = percentiles(values, (0.05, 0.5, 0.9), low=-1.0, high=1.56)
    wanted = np.quantile(values.numpy(), (0.05, 0.5, 0.9), axis=-1).transpose(1, 2, 0)
    assert np.abs(found.numpy() - wanted).max() <= 2.56 / 256


def test_labels_are_counted_row_by_row():
    labels = torch.tensor([[[0, 1, 1, 9], [2, 2, 2, 2]]])
    counts = label_counts(labels, 10)[0]
    assert counts.shape == (2, 10)
    assert counts[0].tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 0, 1]
    assert counts[1].tolist() == [0, 0, 4, 0, 0, 0, 0, 0, 0, 0]


def test_local_patterns_by_hand():
    flat = torch.zeros(1, 1, 5, 5)
    assert local_patterns(flat)[0, 0].tolist() == [1.0] + [0.0] * 9
    hole = flat.clone()
    hole[..., 2, 2] = -0.5  # its eight neighbours have the hole beside them, none is darker than they are
    counts = local_patterns(hole)[0, 0] * 9
    assert counts.tolist() == pytest.approx([8, 0, 0, 0, 0, 0, 0, 0, 1, 0])
    peak = flat.clone()
    peak[..., 2, 2] = 0.5
    assert (local_patterns(peak)[0, 0] * 9).tolist() == pytest.approx([1, 8, 0, 0, 0, 0, 0, 0, 0, 0])
    cross = flat.clone()
    cross[..., 2, 1] = cross[..., 2, 3] = 0.5  # the centre has two brighter neighbours in two arcs: none of the nine
    assert float(local_patterns(cross)[0, 0, PATTERNS - 1] * 9) >= 1


def test_coherence_is_one_on_stripes_and_low_on_noise():
    stripes = torch.sin(torch.arange(36) / 2).expand(1, 1, 36, 36).contiguous()
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, 36, 36))).float()
    on_stripes, on_noise = (float(coherence(*gradients(maps))) for maps in (stripes, noise))
    assert on_stripes == pytest.approx(1, abs=0.02)
    assert on_noise < 0.6


def test_bands_and_the_last_level_hold_the_whole_image():
    image = torch.from_numpy(np.random.default_rng(0).random((1, 1, 32, 32))).float()
    levels = pyramid(image, 3)
    back = levels[-1]
    for fine, coarse in zip(levels[-2::-1], levels[:0:-1], strict=True):
        back = torch.nn.functional.interpolate(back, scale_factor=2, mode="bilinear") + band(fine, coarse)
    torch.testing.assert_close(back, image)


def within_section_correlation(features, targets, held_out):
    """Mean over genes of the correlation on the held-out section, by a ridge with alpha = number of features."""
    z = {s: (x - x.mean(0)) / np.maximum(x.std(0), 1e-6) for s, x in features.items()}
    y = {s: t - t.mean(0) for s, t in targets.items()}
    train = [s for s in z if s != held_out]
    x, t = np.vstack([z[s] for s in train]), np.vstack([y[s] for s in train])
    weights = np.linalg.solve(x.T @ x + x.shape[1] * np.eye(x.shape[1]), x.T @ t)
    p, t = z[held_out] @ weights, y[held_out]
    return float((((p - p.mean(0)) * t).mean(0) / (p.std(0) * t.std(0) + 1e-12)).mean())


def test_it_predicts_expression_on_real_tissue(encoder, real_data):
    """On every other spot of two sections of the bulb, fitted on the one and scored on the other."""
    import imagecodecs
    import polars as pl

    features, targets, genes = {}, {}, []
    for section in ("MOB1", "MOB3"):
        image = imagecodecs.jpeg_decode((real_data / f"mob/{section}.jpg").read_bytes())
        spots = pl.read_csv(real_data / f"mob/alignment_table_{section}.tsv", separator="\t")
        spots = spots.filter(pl.col("selected") == 1)
        counts = pl.read_csv(real_data / f"mob/{section}.tsv.gz", separator="\t", has_header=True)
        counts = counts.rename({counts.columns[0]: "barcode"})
        spots = spots.with_columns(barcode=pl.format("{}x{}", "x", "y")).join(counts, on="barcode", how="inner")
        spots = spots.gather_every(2)
        corners = np.rint(spots.select("pixel_x", "pixel_y").to_numpy()).astype(int) - 24
        inside = ((corners >= 0) & (corners <= 1905 - 48)).all(axis=1)
        patches = np.stack([image[y : y + 48, x : x + 48] for x, y in corners[inside]])
        features[section] = encoder.encode(torch.from_numpy(patches).permute(0, 3, 1, 2)).double().numpy()
        genes = genes or counts.columns[1:]
        raw = spots.select(genes).to_numpy()[inside].astype(float)
        targets[section] = np.log1p(1e4 * raw / raw.sum(1, keepdims=True))
    best = np.argsort(-targets["MOB1"].mean(0))[:100]
    targets = {section: t[:, best] for section, t in targets.items()}
    assert within_section_correlation(features, targets, "MOB3") > 0.25
