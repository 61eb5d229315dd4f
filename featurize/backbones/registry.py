"""The backbones that are known by name, one record each.

Published names stand for different vectors in different tools: input size, statistics and pooling are written out
here, and pooling is part of the key wherever a model is used with more than one. Only revisions that were seen are
pinned; where none is, weights are loaded from a local file.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from ...store.errors import BackboneError
from .record import BackboneRecord, load_record

_PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "resize": "none", "input_px": 224}
_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "input_px": 224}
_HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "input_px": 224}
_BIOPTIMUS: dict[str, Any] = {
    "mean": (0.707223, 0.578729, 0.703617),
    "std": (0.211883, 0.230117, 0.177517),
    "input_px": 224,
}
# Statistics that lunit-dino was trained with; timm's configuration of it names ImageNet's.
_LUNIT: dict[str, Any] = {
    "mean": (0.70322989, 0.53606487, 0.66096631),
    "std": (0.21716536, 0.26081574, 0.20723464),
    "input_px": 224,
}

_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}

_VIRCHOW2: dict[str, Any] = {
    **_IMAGENET,
    "loader": "timm",
    "architecture": "vit_huge_patch14_224",
    "architecture_options": {
        **_SWIGLU, "img_size": 224, "init_values": 1e-5, "num_classes": 0, "mlp_ratio": 5.3375, "global_pool": "",
        "reg_tokens": 4, "dynamic_img_size": True,
    },
    "hub_id": "paige-ai/Virchow2",
    "resize": "bicubic",
    "token_grid": (16, 16),
    "prefix_tokens": 5,
    "precision": "fp16",
    "licence": "CC-BY-NC-ND-4.0, gated",
    "gated": True,
}  # fmt: skip

_H0_MINI: dict[str, Any] = {
    **_BIOPTIMUS,
    "loader": "timm",
    "architecture": "vit_base_patch14_reg4_dinov2",
    "architecture_options": {
        **_SWIGLU, "img_size": 224, "init_values": 1e-5, "num_classes": 0, "mlp_ratio": 5.33334, "global_pool": "token",
    },
    "hub_id": "bioptimus/H0-mini",
    "resize": "bicubic",
    "token_grid": (16, 16),
    "prefix_tokens": 5,
    "precision": "fp16",
    "licence": "CC-BY-NC-ND-4.0, gated",
    "gated": True,
}  # fmt: skip

_RECORDS = (
    BackboneRecord(
        **_PLAIN, key="stain-texture", loader="embedded", architecture="stain-texture", pooling="model", dim=314,
        token_grid=(7, 7), licence="Apache-2.0", version="1",
    ),
    BackboneRecord(
        **_PLAIN, key="haematoxylin", loader="embedded", architecture="haematoxylin", pooling="model", dim=1,
        licence="Apache-2.0", version="1",
    ),
    BackboneRecord(
        **_IMAGENET, key="uni", loader="timm", architecture="vit_large_patch16_224",
        architecture_options={"img_size": 224, "init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True},
        hub_id="MahmoodLab/UNI", revision="77ffbca1ee1cdcee6e87f6deebd2db8a5888c721", resize="bilinear", pooling="cls",
        dim=1024, token_grid=(14, 14), prefix_tokens=1, precision="fp16", gated=True,
        licence="CC-BY-NC-ND-4.0, gated; outputs and models made from them are non-commercial too",
    ),
    BackboneRecord(
        **_IMAGENET, key="uni2-h", loader="timm", architecture="vit_giant_patch14_224",
        architecture_options={
            **_SWIGLU, "img_size": 224, "depth": 24, "num_heads": 24, "init_values": 1e-5, "embed_dim": 1536,
            "mlp_ratio": 5.33334, "num_classes": 0, "no_embed_class": True, "reg_tokens": 8, "dynamic_img_size": True,
        },
        hub_id="MahmoodLab/UNI2-h", resize="bilinear", pooling="cls", dim=1536, token_grid=(16, 16), prefix_tokens=9,
        precision="bf16", gated=True,
        licence="CC-BY-NC-ND-4.0, gated; outputs and models made from them are non-commercial too",
    ),
    BackboneRecord(**_VIRCHOW2, key="virchow2.cls+mean", pooling="cls+mean", dim=2560),
    BackboneRecord(**_VIRCHOW2, key="virchow2.cls", pooling="cls", dim=1280),
    BackboneRecord(
        **_BIOPTIMUS, key="h-optimus-0", loader="timm", architecture="vit_giant_patch14_reg4_dinov2",
        architecture_options={
            "img_size": 224, "init_values": 1e-5, "num_classes": 0, "global_pool": "token", "dynamic_img_size": True,
        },
        hub_id="bioptimus/H-optimus-0", resize="bicubic", pooling="cls", dim=1536, token_grid=(16, 16),
        prefix_tokens=5, precision="fp16", licence="Apache-2.0",
    ),
    BackboneRecord(**_H0_MINI, key="h0-mini.cls", pooling="cls", dim=768),
    BackboneRecord(**_H0_MINI, key="h0-mini.cls+mean", pooling="cls+mean", dim=1536),
    BackboneRecord(
        **_IMAGENET, key="prov-gigapath", loader="timm", architecture="vit_giant_patch14_dinov2",
        architecture_options={
            "img_size": 224, "patch_size": 16, "embed_dim": 1536, "depth": 40, "num_heads": 24, "mlp_ratio": 5.33334,
            "num_classes": 0,
        },
        hub_id="prov-gigapath/prov-gigapath", crop_from_px=256, resize="bicubic", pooling="cls", dim=1536,
        token_grid=(14, 14), prefix_tokens=1, precision="fp16", gated=True, licence="Apache-2.0 with conditions, gated",
    ),
    BackboneRecord(
        **_LUNIT, key="lunit-dino-s16", loader="timm", architecture="vit_small_patch16_224",
        architecture_options={"img_size": 224, "num_classes": 0, "dynamic_img_size": True},
        hub_id="1aurent/vit_small_patch16_224.lunit_dino", resize="bilinear", pooling="cls", dim=384,
        token_grid=(14, 14), prefix_tokens=1, licence="Lunit non-commercial",
    ),
    BackboneRecord(
        **_HALF, key="kaiko-vitb16", loader="timm", architecture="vit_base_patch16_224",
        architecture_options={"img_size": 224, "num_classes": 0, "dynamic_img_size": True},
        hub_id="1aurent/vit_base_patch16_224.kaiko_ai_towards_large_pathology_fms", resize="bilinear", pooling="cls",
        dim=768, token_grid=(14, 14), prefix_tokens=1, licence="see the model's page",
    ),
    BackboneRecord(
        **_IMAGENET, key="resnet50", loader="timm", architecture="resnet50",
        architecture_options={"features_only": True, "out_indices": [3]},
        hub_id="timm/resnet50.tv_in1k", resize="bilinear", pooling="global average", dim=1024, token_grid=(14, 14),
        licence="BSD-3-Clause weights, trained on ImageNet",
    ),
)  # fmt: skip

BACKBONES: dict[str, BackboneRecord] = {record.key: record for record in _RECORDS}


def get_record(key_or_path: str | Path) -> BackboneRecord:
    """Find a backbone by name, or read the record file of another.

    Parameters
    ----------
    key_or_path
        A key of `BACKBONES`, or the path of a `.json` record.

    Raises
    ------
    BackboneError
        If it is neither.
    """
    name = str(key_or_path)
    if name in BACKBONES:
        return BACKBONES[name]
    if name.endswith(".json"):
        return load_record(Path(key_or_path))
    poolings = [key for key in BACKBONES if key.startswith(f"{name}.")]
    near = poolings or difflib.get_close_matches(name, BACKBONES, n=3) or list(BACKBONES)
    msg = f"backbone {name!r} is not known by name and is no .json record file; did you mean {', '.join(near)}?"
    raise BackboneError(msg)
