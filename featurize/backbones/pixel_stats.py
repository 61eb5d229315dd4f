"""Channel statistics that published backbones were trained with, as fields of a record."""

from __future__ import annotations

from typing import Any

NONE: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}

IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

CLIP: dict[str, Any] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
"""Of OpenAI's CLIP."""

BIOPTIMUS: dict[str, Any] = {"mean": (0.707223, 0.578729, 0.703617), "std": (0.211883, 0.230117, 0.177517)}

HIBOU: dict[str, Any] = {"mean": (0.7068, 0.5755, 0.722), "std": (0.195, 0.2316, 0.1816)}

RUDOLF: dict[str, Any] = {"mean": (0.7072, 0.5787, 0.7036), "std": (0.2119, 0.2301, 0.1775)}

GENBIO: dict[str, Any] = {"mean": (0.697, 0.575, 0.728), "std": (0.188, 0.240, 0.187)}

LUNIT: dict[str, Any] = {
    "mean": (0.70322989, 0.53606487, 0.66096631),
    "std": (0.21716536, 0.26081574, 0.20723464),
}
"""Statistics that lunit-dino was trained with; timm's configuration of it names ImageNet's."""
