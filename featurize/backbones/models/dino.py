"""Pathology models of the first DINO generation that timm's own hub pages carry: kaiko and lunit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..pixel_stats import HALF, IMAGENET, LUNIT
from ..record import BackboneRecord

_KAIKO_LICENCE = "Kaiko non-commercial, as other tools name it: read the model's page"


def _kaiko(name: str, architecture: str, *, patch_px: int, dim: int) -> BackboneRecord:
    return BackboneRecord(
        **HALF, key=f"kaiko-{name}", loader="timm", architecture=architecture,
        architecture_options={"img_size": 224, "num_classes": 0, "dynamic_img_size": True},
        hub_id=f"1aurent/{architecture}.kaiko_ai_towards_large_pathology_fms", input_px=224, resize="bilinear",
        pooling="cls", dim=dim, token_grid=(224 // patch_px, 224 // patch_px), prefix_tokens=1, native_mpp=(0.5,),
        tile_px=256, licence=_KAIKO_LICENCE,
    )  # fmt: skip


_KAIKO_L14 = BackboneRecord(
    **HALF, key="kaiko-vitl14", loader="timm", architecture="vit_large_patch14_reg4_dinov2",
    architecture_options={"img_size": 518, "num_classes": 0, "dynamic_img_size": True},
    hub_id="1aurent/vit_large_patch14_reg4_dinov2.kaiko_ai_towards_large_pathology_fms", input_px=224,
    resize="bilinear", pooling="cls", dim=1024, token_grid=(16, 16), prefix_tokens=5, native_mpp=(0.5,), tile_px=256,
    licence=_KAIKO_LICENCE,
    note="positions of 518 px are interpolated to 224 px, as users feed it",
)  # fmt: skip


def _lunit(patch_px: int, *, statistics: dict[str, Any], suffix: str = "") -> BackboneRecord:
    architecture = f"vit_small_patch{patch_px}_224"
    return BackboneRecord(
        **statistics, key=f"lunit-dino-s{patch_px}{suffix}", loader="timm", architecture=architecture,
        architecture_options={"img_size": 224, "num_classes": 0, "dynamic_img_size": True},
        hub_id=f"1aurent/{architecture}.lunit_dino", input_px=224, resize="bilinear", pooling="cls", dim=384,
        token_grid=(224 // patch_px, 224 // patch_px), prefix_tokens=1, native_mpp=(0.5,), tile_px=224,
        licence="Lunit non-commercial", parameters_m=21.7,
    )  # fmt: skip


def _with_imagenet(patch_px: int) -> BackboneRecord:
    note = "ImageNet's statistics, as timm's configuration names them; it was trained with others"
    return replace(_lunit(patch_px, statistics=IMAGENET, suffix="-imagenet"), note=note)


MODELS = (
    _kaiko("vits16", "vit_small_patch16_224", patch_px=16, dim=384),
    _kaiko("vits8", "vit_small_patch8_224", patch_px=8, dim=384),
    _kaiko("vitb16", "vit_base_patch16_224", patch_px=16, dim=768),
    _kaiko("vitb8", "vit_base_patch8_224", patch_px=8, dim=768),
    _KAIKO_L14,
    _lunit(8, statistics=LUNIT),
    _lunit(16, statistics=LUNIT),
    _with_imagenet(8),
    _with_imagenet(16),
)
