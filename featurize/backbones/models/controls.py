"""What pathology models must beat: encoders without weights, and nets trained on photographs."""

from __future__ import annotations

from ..pixel_stats import IMAGENET, NONE
from ..record import BackboneRecord

MODELS = (
    BackboneRecord(
        **NONE, key="stain-texture", loader="embedded", architecture="stain-texture", input_px=224, resize="none",
        pooling="model", dim=314, token_grid=(7, 7), licence="Apache-2.0", version="1",
    ),
    BackboneRecord(
        **NONE, key="haematoxylin", loader="embedded", architecture="haematoxylin", input_px=224, resize="none",
        pooling="model", dim=1, licence="Apache-2.0", version="1",
    ),
    BackboneRecord(
        **IMAGENET, key="resnet50", loader="timm", architecture="resnet50",
        architecture_options={"features_only": True, "out_indices": [3]},
        hub_id="timm/resnet50.tv_in1k", input_px=224, resize="bilinear", pooling="global average", dim=1024,
        token_grid=(14, 14), tile_px=256, licence="BSD-3-Clause weights, trained on ImageNet", parameters_m=8.5,
        note="up to its third stage, 8.5 of the 25 million parameters",
    ),
    BackboneRecord(
        **IMAGENET, key="dinov2-vitb14", loader="timm", architecture="vit_base_patch14_dinov2",
        architecture_options={"img_size": 518, "num_classes": 0, "dynamic_img_size": True},
        hub_id="timm/vit_base_patch14_dinov2.lvd142m", input_px=224, resize="bicubic", pooling="cls", dim=768,
        token_grid=(16, 16), prefix_tokens=1, licence="Apache-2.0 weights, trained on photographs",
        note="positions of 518 px are interpolated to 224 px",
    ),
)  # fmt: skip
