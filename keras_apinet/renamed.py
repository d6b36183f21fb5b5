"""Names that arguments and settings had in files of before 0.2."""

from collections.abc import Mapping
from typing import Any

NEW_NAMES = {
    "accumulate": "gradient_accumulation_steps",
    "ema": "ema_momentum",
    "frozen": "freeze_fraction",
    "jit": "jit_compile",
    "licence": "license",
    "memory": "memory_size",
    "partners": "num_partners",
    "rising": "warmup_fraction",
    "strategy": "mining",
    "views": "cached_views",
    "views_dir": "cached_views_dir",
    "warmup_cached": "cached_head_features",
    "warmup_epochs": "head_epochs",
}


def with_new_names(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a file of any version says, under the names of today."""
    return {NEW_NAMES.get(name, name): value for name, value in content.items()}
