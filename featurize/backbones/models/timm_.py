"""Pathology models whose architecture timm builds, published by their makers.

Options are those that the weights were made with; where tools feed one model differently, each way is a key of its own.
"""

from __future__ import annotations

from typing import Any

from ..pixel_stats import BIOPTIMUS, IMAGENET
from ..record import BackboneRecord

_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}

_MAHMOOD_LAB: dict[str, Any] = {
    "gated": True,
    "licence": "CC-BY-NC-ND-4.0",
    "output_licence": "features, and models trained on them, are non-commercial too",
}

_VIRCHOW: dict[str, Any] = {
    **IMAGENET,
    "loader": "timm",
    "architecture": "vit_huge_patch14_224",
    "input_px": 224, "resize": "bicubic", "token_grid": (16, 16), "tile_px": 224, "precision": "fp16", "gated": True,
    "parameters_m": 631.2,
}  # fmt: skip
_VIRCHOW_OPTIONS = {
    **_SWIGLU, "img_size": 224, "init_values": 1e-5, "num_classes": 0, "mlp_ratio": 5.3375, "global_pool": "",
    "dynamic_img_size": True,
}  # fmt: skip
_VIRCHOW_1: dict[str, Any] = {
    **_VIRCHOW, "hub_id": "paige-ai/Virchow", "architecture_options": _VIRCHOW_OPTIONS, "prefix_tokens": 1,
    "native_mpp": (0.5,), "gflops": 323.93, "licence": "Apache-2.0",
    "note": "access is given to institutional e-mail addresses only",
}  # fmt: skip
_VIRCHOW_2: dict[str, Any] = {
    **_VIRCHOW, "hub_id": "paige-ai/Virchow2", "architecture_options": {**_VIRCHOW_OPTIONS, "reg_tokens": 4},
    "prefix_tokens": 5, "native_mpp": (0.25, 0.5, 1.0, 2.0), "gflops": 328.97, "licence": "CC-BY-NC-ND-4.0",
}  # fmt: skip

_H_OPTIMUS: dict[str, Any] = {
    **BIOPTIMUS,
    "loader": "timm",
    "architecture": "vit_giant_patch14_reg4_dinov2",
    "architecture_options": {
        "img_size": 224, "init_values": 1e-5, "num_classes": 0, "global_pool": "token", "dynamic_img_size": True,
    },
    "input_px": 224, "pooling": "cls", "dim": 1536, "token_grid": (16, 16), "prefix_tokens": 5, "native_mpp": (0.5,),
    "tile_px": 224, "precision": "fp16", "parameters_m": 1130,
}  # fmt: skip
_H_OPTIMUS_0: dict[str, Any] = {
    **_H_OPTIMUS, "hub_id": "bioptimus/H-optimus-0", "gflops": 592, "licence": "Apache-2.0", "gated": True,
}  # fmt: skip
_H_OPTIMUS_1: dict[str, Any] = {
    **_H_OPTIMUS, "hub_id": "bioptimus/H-optimus-1", "gflops": 591.61, "licence": "CC-BY-NC-ND-4.0", "gated": True,
}  # fmt: skip

_H0_MINI: dict[str, Any] = {
    **BIOPTIMUS,
    "loader": "timm",
    "architecture": "vit_base_patch14_reg4_dinov2",
    "architecture_options": {
        **_SWIGLU, "img_size": 224, "init_values": 1e-5, "num_classes": 0, "mlp_ratio": 5.33334, "global_pool": "token",
    },
    "hub_id": "bioptimus/H0-mini",
    "input_px": 224, "resize": "bicubic", "token_grid": (16, 16), "prefix_tokens": 5, "native_mpp": (0.5,),
    "tile_px": 224, "precision": "fp16", "parameters_m": 85.7, "gflops": 44.57, "licence": "CC-BY-NC-ND-4.0",
    "gated": True,
}  # fmt: skip

_GIGAPATH = BackboneRecord(
    **IMAGENET, key="prov-gigapath", loader="timm", architecture="vit_giant_patch14_dinov2",
    architecture_options={
        "img_size": 224, "patch_size": 16, "embed_dim": 1536, "depth": 40, "num_heads": 24, "mlp_ratio": 5.33334,
        "num_classes": 0,
    },
    hub_id="prov-gigapath/prov-gigapath", input_px=224, crop_from_px=256, resize="bicubic", pooling="cls", dim=1536,
    token_grid=(14, 14), prefix_tokens=1, native_mpp=(0.5,), tile_px=256, precision="fp16", gated=True,
    licence="Apache-2.0 with conditions", parameters_m=1130,
)  # fmt: skip

MODELS = (
    BackboneRecord(
        **IMAGENET, **_MAHMOOD_LAB, key="uni", loader="timm", architecture="vit_large_patch16_224",
        architecture_options={"img_size": 224, "init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True},
        hub_id="MahmoodLab/UNI", revision="77ffbca1ee1cdcee6e87f6deebd2db8a5888c721", hub_file="pytorch_model.bin",
        input_px=224, resize="bilinear", pooling="cls", dim=1024, token_grid=(14, 14), prefix_tokens=1,
        native_mpp=(0.5,), tile_px=256, precision="fp16", parameters_m=303.4, gflops=119.29,
    ),
    BackboneRecord(
        **IMAGENET, **_MAHMOOD_LAB, key="uni2-h", loader="timm", architecture="vit_giant_patch14_224",
        architecture_options={
            **_SWIGLU, "img_size": 224, "depth": 24, "num_heads": 24, "init_values": 1e-5, "embed_dim": 1536,
            "mlp_ratio": 5.33334, "num_classes": 0, "no_embed_class": True, "reg_tokens": 8, "dynamic_img_size": True,
        },
        hub_id="MahmoodLab/UNI2-h", input_px=224, resize="bilinear", pooling="cls", dim=1536, token_grid=(16, 16),
        prefix_tokens=9, native_mpp=(0.5,), tile_px=256, precision="bf16", parameters_m=681.4,
    ),
    BackboneRecord(**_VIRCHOW_1, key="virchow.cls+mean", pooling="cls+mean", dim=2560),
    BackboneRecord(**_VIRCHOW_1, key="virchow.cls", pooling="cls", dim=1280),
    BackboneRecord(**_VIRCHOW_2, key="virchow2.cls+mean", pooling="cls+mean", dim=2560),
    BackboneRecord(**_VIRCHOW_2, key="virchow2.cls", pooling="cls", dim=1280),
    # Tools disagree on the interpolation of tiles that are not 224 px.
    BackboneRecord(**_H_OPTIMUS_0, key="h-optimus-0", resize="bicubic"),
    BackboneRecord(**_H_OPTIMUS_0, key="h-optimus-0-bilinear", resize="bilinear"),
    BackboneRecord(**_H_OPTIMUS_1, key="h-optimus-1", resize="bicubic"),
    BackboneRecord(**_H_OPTIMUS_1, key="h-optimus-1-bilinear", resize="bilinear"),
    BackboneRecord(**_H0_MINI, key="h0-mini.cls+mean", pooling="cls+mean", dim=1536),
    BackboneRecord(**_H0_MINI, key="h0-mini.cls", pooling="cls", dim=768),
    _GIGAPATH,
    BackboneRecord(
        **IMAGENET, key="gigapath-flash", loader="timm", architecture="vit_small_patch16_224",
        architecture_options={
            **_SWIGLU, "img_size": 224, "init_values": 1e-5, "num_classes": 0, "mlp_ratio": 2048 / 384,
            "global_pool": "token",
        },
        hub_id="prov-gigapath/prov-gigapath-flash", hub_file="pytorch_model.bin", input_px=224, crop_from_px=256,
        resize="bicubic", pooling="cls", dim=384, token_grid=(14, 14), prefix_tokens=1, native_mpp=(0.5,), tile_px=256,
        precision="fp32", gated=True, licence="Apache-2.0", parameters_m=21.7, gflops=8.48,
        note="the licence is not settled: Apache-2.0 in one place, non-commercial in another; read the model's page",
    ),
    BackboneRecord(
        **IMAGENET, key="openmidnight", loader="timm", architecture="vit_giant_patch14_reg4_dinov2",
        architecture_options={"img_size": 224, "num_classes": 0},
        hub_id="SophontAI/OpenMidnight", hub_file="teacher_checkpoint_load.pt", input_px=224, resize="bilinear",
        pooling="cls", dim=1536, token_grid=(16, 16), prefix_tokens=5, native_mpp=(0.5,), tile_px=224,
        precision="fp16", gated=True, licence="Apache-2.0", parameters_m=1100,
        note="its file bears DINOv2's own tensor names, which are translated to timm's; whether it holds nothing but "
        "tensors, as loading without running code asks, could not be verified",
    ),
    BackboneRecord(
        **IMAGENET, key="gpfm", loader="timm", architecture="vit_large_patch14_dinov2",
        architecture_options={"img_size": 224, "init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True},
        hub_id="majiabo/GPFM", hub_file="GPFM.pth", input_px=224, resize="bicubic", pooling="cls", dim=1024,
        token_grid=(16, 16), prefix_tokens=1, native_mpp=(0.5,), tile_px=224, precision="fp16",
        licence="not settled: MIT or CC-BY-NC-ND-4.0, read the model's page", parameters_m=303, gflops=155.53,
        note="trained on tiles of 512 px at 0.25 um/px that were resized, so 0.5 um/px in effect",
    ),
    BackboneRecord(
        **IMAGENET, key="mstar", loader="timm", architecture="vit_large_patch16_224",
        architecture_options={"img_size": 224, "init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True},
        hub_id="Wangyh/mSTAR", input_px=224, resize="bilinear", pooling="cls", dim=1024, token_grid=(14, 14),
        prefix_tokens=1, native_mpp=(0.5,), tile_px=256, licence="CC-BY-NC-ND-4.0", gated=True, parameters_m=303.4,
        gflops=119.29,
    ),
)  # fmt: skip
