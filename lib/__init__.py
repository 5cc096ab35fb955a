"""TransPose (ICCV 2021, arXiv 2012.14214): keypoint localisation by a CNN, a Transformer encoder and heatmaps.

The public names below are imported when they are first used, so that `import transpose` loads no PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["PoseResult", "Predictor", "UserError", "__version__", "load_config"]

if TYPE_CHECKING:
    from .config.load import load_config
    from .errors import UserError
    from .predictor.predictor import Predictor
    from .predictor.result import PoseResult

_MODULES = {
    "PoseResult": ".predictor.result",
    "Predictor": ".predictor.predictor",
    "UserError": ".errors",
    "load_config": ".config.load",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
