"""The encoder on its device: preparing pixels, one pass for vectors and tokens, precision and placing."""

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from tissuary.featurize.backbones.build import build_encoder
from tissuary.featurize.backbones.placement import chosen_precision, cpu_has_bf16, place
from tissuary.featurize.backbones.record import BackboneRecord
from tissuary.featurize.backbones.registry import get_record
from tissuary.store.errors import BackboneError

TINY = BackboneRecord(
    key="tiny",
    loader="timm",
    architecture="test_vit",
    architecture_options={"num_classes": 0, "img_size": 64},
    input_px=64,
    resize="bilinear",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    pooling="cls",
    dim=64,
    token_grid=(4, 4),
    prefix_tokens=1,
    licence="none",
)


@pytest.fixture(scope="module")
def encoder():
    return build_encoder(TINY, weights="random")


def patches(n=3, *, side=64, seed=0):
    """Channels-last data, as readers give it: a (n, 3, side, side) view."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)


# Preparing


@pytest.mark.parametrize("loader", ["timm", "embedded"])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_pixels_are_normalised_in_any_layout(loader, layout):
    if loader == "timm":
        encoder = build_encoder(TINY, weights="random")
    else:
        encoder = build_encoder(replace(get_record("haematoxylin"), input_px=64))
    x = patches().contiguous(memory_format=layout)
    before = x.clone()
    mean, std = (torch.tensor(v)[:, None, None] for v in (encoder.record.mean, encoder.record.std))
    prepared = encoder.prepare(x)
    torch.testing.assert_close(prepared, (x / 255 - mean) / std, atol=1e-6, rtol=1e-5)
    assert torch.equal(x, before)
    wanted = torch.channels_last if loader == "timm" else torch.contiguous_format
    assert prepared.is_contiguous(memory_format=wanted)


def test_a_crop_is_central(encoder):
    cropped = build_encoder(replace(TINY, crop_from_px=80), weights="random")
    x = patches(side=80)
    torch.testing.assert_close(cropped.prepare(x), encoder.prepare(x[:, :, 8:72, 8:72]))


def test_an_upsampled_ramp_keeps_its_slope(encoder):
    # 32 px to 64: new centres lie a quarter of an old pixel beside the old ones.
    ramp = (torch.arange(32, dtype=torch.uint8) * 4).expand(1, 3, 32, 32)
    prepared = encoder.prepare(ramp) * torch.tensor(TINY.std)[:, None, None] + torch.tensor(TINY.mean)[:, None, None]
    wanted = ((torch.arange(64) + 0.5) / 2 - 0.5) * 4 / 255
    torch.testing.assert_close(prepared[0, 1, 30, 1:-1], wanted[1:-1], atol=1e-5, rtol=0)


# Vectors and tokens


def test_one_pass_gives_vectors_and_grids(encoder):
    passes = []
    network = encoder.embedding.network
    hook = network.patch_embed.register_forward_hook(lambda *_: passes.append(1))
    vectors, grids = encoder.encode_with_grids(patches(), grids=[(4, 4), (2, 2), (3, 3)])
    hook.remove()
    assert len(passes) == 1
    tokens = encoder.tokens(patches())
    torch.testing.assert_close(vectors, encoder.encode(patches()))
    torch.testing.assert_close(grids[4, 4], tokens)
    maps = tokens.view(3, 2, 2, 2, 2, 64)  # (b, row, row in cell, column, column in cell, d)
    torch.testing.assert_close(grids[2, 2], maps.mean(dim=(2, 4)).view(3, 4, 64))
    assert grids[3, 3].shape == (3, 9, 64)
    assert vectors.dtype == grids[2, 2].dtype == torch.float32


def test_the_length_of_tokens_is_not_that_of_vectors():
    both = build_encoder(replace(TINY, pooling="cls+mean", dim=128), weights="random")
    assert (both.dim, both.token_dim) == (128, 64)
    texture = build_encoder(get_record("stain-texture"))
    assert texture.token_dim == texture.dim


def test_no_patches(encoder):
    vectors, grids = encoder.encode_with_grids(patches(0), grids=[(2, 2)])
    assert vectors.shape == (0, 64)
    assert grids[2, 2].shape == (0, 4, 64)


def test_grids_that_a_backbone_has_not(encoder):
    with pytest.raises(BackboneError, match="ask for at most 4 x 4"):
        encoder.encode_with_grids(patches(), grids=[(7, 7)])
    alone = build_encoder(get_record("haematoxylin"))
    with pytest.raises(BackboneError, match="haematoxylin has no token_grid"):
        alone.encode_with_grids(patches(side=224), grids=[(1, 1)])


# Precision


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_on_a_cpu_is_bf16_where_it_has_it(precision):
    wanted = "bf16" if cpu_has_bf16() else "fp32"
    assert chosen_precision(replace(TINY, precision=precision), "cpu") == wanted


@pytest.mark.parametrize(
    ("capabilities", "wanted"),
    [
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ({"avx512_f": True, "avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"neon": True, "bf16": True}, "bf16"),
        ({"neon": True, "bf16": False}, "fp32"),
    ],
)
def test_bf16_needs_instructions(monkeypatch, capabilities, wanted):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)  # other machines' than this one's
    assert chosen_precision(replace(TINY, precision="bf16"), "cpu") == wanted


@pytest.mark.parametrize(
    ("has_bf16", "precision", "asked", "wanted"),
    [
        (True, "bf16", "auto", "bf16"),
        (True, "fp16", "auto", "fp16"),
        (True, "fp32", "auto", "fp32"),
        (True, "fp32", "bf16", "bf16"),
        (True, "bf16", "fp32", "fp32"),
        (False, "bf16", "auto", "fp32"),
        (False, "fp16", "auto", "fp16"),
        (False, "bf16", "fp16", "fp16"),
    ],
)
def test_precision_on_a_gpu(monkeypatch, has_bf16, precision, asked, wanted):
    _made_up_gpu(monkeypatch, has_bf16=has_bf16)
    assert chosen_precision(replace(TINY, precision=precision), "cuda", asked=asked) == wanted


def test_bf16_asked_of_a_gpu_without_it(monkeypatch):
    _made_up_gpu(monkeypatch, has_bf16=False)
    with pytest.raises(BackboneError, match="device cuda has no bf16; ask for fp16 or fp32"):
        chosen_precision(TINY, "cuda", asked="bf16")


def _made_up_gpu(monkeypatch, *, has_bf16):
    from contextlib import nullcontext

    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)


@pytest.mark.parametrize("asked", ["auto", "fp32", "fp16", "bf16"])
def test_embedded_encoders_run_in_fp32(asked):
    assert chosen_precision(get_record("stain-texture"), "cpu", asked=asked) == "fp32"


def test_precisions_that_cannot_be():
    with pytest.raises(BackboneError, match=r"precision fp16 of backbone tiny on a CPU.*ask for bf16 or fp32"):
        chosen_precision(TINY, "cpu", asked="fp16")
    with pytest.raises(BackboneError, match="'int8': choose one of auto, fp32, fp16, bf16"):
        chosen_precision(TINY, "cpu", asked="int8")


def test_slow_bf16_is_allowed_and_said(monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with caplog.at_level(logging.WARNING):
        assert chosen_precision(TINY, "cpu", asked="bf16") == "bf16"
    assert "tiny: this CPU has no bf16 instructions" in caplog.text


def test_the_same_patches_in_bf16_stay_near(encoder):
    brain = build_encoder(TINY, weights="random", precision="bf16")
    assert brain.record.precision == "bf16"
    assert brain.prepare(patches()).dtype == torch.bfloat16
    found = brain.encode(patches())
    assert found.dtype == torch.float32
    assert nn.functional.cosine_similarity(found, encoder.encode(patches())).min() > 0.99


# Placing


class Sums(nn.Module):
    """A convolution, and the batch sizes it saw."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 4, kernel_size=4, stride=4)
        self.sizes = []

    def forward(self, x):
        return self.both(x)[0]

    def both(self, x):
        self.sizes.append(len(x))
        found = self.convolution(x).flatten(2).transpose(1, 2)
        return found.mean(1), found


def test_placed_weights_are_channels_last_and_cast():
    placed = place(Sums(), device="cpu", precision="bf16")
    weight = placed.convolution.weight
    assert weight.dtype == torch.bfloat16
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_compiled_networks_see_few_batch_sizes():
    module, x = Sums().eval(), torch.rand(20, 3, 8, 8)
    with torch.inference_mode():
        wanted = module.both(x)
        # The stance runs what is compiled without its compiler, which would take a minute.
        with torch.compiler.set_stance("force_eager"):
            placed = place(module, device="cpu", precision="fp32", compiled=True)
            module.sizes.clear()
            for size in (1, 7, 8, 9, 16, 20):
                vectors, tokens = placed.both(x[:size])
                torch.testing.assert_close(vectors, wanted[0][:size])
                torch.testing.assert_close(tokens, wanted[1][:size])
                torch.testing.assert_close(placed(x[:size]), wanted[0][:size])
    assert set(module.sizes) == {8, 16, 32}


def test_nothing_to_compile_with():
    with (
        torch.compiler.set_stance("fail_on_recompile"),
        pytest.raises(
            BackboneError, match=r"torch\.compile does not work for device cpu here .* or leave compilation out"
        ),
    ):
        place(Sums(), device="cpu", precision="fp32", compiled=True)
