"""Pathology models that are an architecture of the library transformers, or of timm with a few lines more.

Their configurations are written out here, so that nothing is asked of the hub but the weights.
"""

from __future__ import annotations

from typing import Any

from ..pixel_stats import CLIP, HALF, IMAGENET
from ..record import BackboneRecord

_UNVERIFIED = (
    "the configuration on the hub was not seen: what has no tensor of its own (epsilons, activation) is the "
    "architecture's default"
)

_OWKIN: dict[str, Any] = {
    **IMAGENET,
    "loader": "transformers",
    "input_px": 224, "resize": "bilinear", "pooling": "cls", "token_grid": (14, 14), "prefix_tokens": 1,
    "native_mpp": (0.5,), "tile_px": 224, "licence": "Owkin non-commercial", "note": _UNVERIFIED,
}  # fmt: skip

_MIDNIGHT: dict[str, Any] = {
    **HALF,
    "loader": "transformers",
    "architecture": "Dinov2Model",
    "architecture_options": {
        "hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "mlp_ratio": 4, "patch_size": 14,
        "image_size": 518, "use_swiglu_ffn": True,
    },
    "hub_id": "kaiko-ai/midnight",
    "input_px": 224, "resize": "bilinear", "token_grid": (16, 16), "prefix_tokens": 1,
    "native_mpp": (0.25, 0.5, 1.0, 2.0), "precision": "fp16", "licence": "MIT", "parameters_m": 1140, "gflops": 582.55,
    "note": _UNVERIFIED,
}  # fmt: skip

MODELS = (
    BackboneRecord(
        **_OWKIN, key="phikon", architecture="ViTModel",
        architecture_options={
            "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
            "patch_size": 16, "image_size": 224,
        },
        hub_id="owkin/phikon", dim=768, parameters_m=85.8, gflops=33.70,
    ),
    BackboneRecord(
        **_OWKIN, key="phikon-v2", architecture="Dinov2Model",
        architecture_options={
            "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "mlp_ratio": 4, "patch_size": 16,
            "image_size": 224,
        },
        hub_id="owkin/phikon-v2", dim=1024, parameters_m=303.4, gflops=119.29,
    ),
    BackboneRecord(**_MIDNIGHT, key="midnight-12k.cls+mean", pooling="cls+mean", dim=3072),
    BackboneRecord(**_MIDNIGHT, key="midnight-12k.cls", pooling="cls", dim=1536),
    BackboneRecord(
        **CLIP, key="plip", loader="transformers", architecture="CLIPVisionModelWithProjection",
        architecture_options={
            "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
            "patch_size": 32, "image_size": 224, "projection_dim": 512,
        },
        hub_id="vinid/plip", input_px=224, resize="bicubic", pooling="projected", dim=512, token_grid=(7, 7),
        prefix_tokens=1, licence="non-commercial", parameters_m=87.8, gflops=8.73,
        note=f"native resolution and interpolation are not settled; bicubic is CLIP's own; {_UNVERIFIED}",
    ),
    BackboneRecord(
        **IMAGENET, key="keep", loader="custom", architecture="projected-vit",
        architecture_options={
            "trunk": "vit_large_patch16_224", "trunk_options": {"img_size": 224, "init_values": 1e-5},
            "projection_dim": 768,
        },
        hub_id="Astaxanthin/KEEP", input_px=224, resize="bicubic", pooling="projected", dim=768, token_grid=(14, 14),
        prefix_tokens=1, native_mpp=(0.5,), tile_px=256, precision="fp16", licence="MIT",
        note="built from the published layout of its weights, not from its own code; not yet compared with it. Vectors "
        "are not scaled to length 1",
    ),
)  # fmt: skip
