"""TransPose on the Hugging Face Hub: networks as safetensors, with their settings in a config.json.

network = zoo.pretrained("tp_r_a4", variants=hub.HUB_VARIANTS); network.push_to_hub("me/transpose-r-a4")
network = hub.HUB_VARIANTS["transpose_r"].from_pretrained("me/transpose-r-a4")
"""

from dataclasses import fields
from typing import Any

from ..errors import missing
from .encoder import EncoderConfig
from .transpose import TransPoseH, TransPoseR

try:
    import safetensors.torch  # noqa: F401  the mixin's format
    from huggingface_hub import PyTorchModelHubMixin
except ModuleNotFoundError as error:
    raise missing(error.name or "huggingface_hub", "hub") from None

ON_ITS_PAGE = {
    "library_name": "transpose",
    "repo_url": "https://github.com/yangsenius/TransPose",
    "paper_url": "https://arxiv.org/abs/2012.14214",
    "pipeline_tag": "keypoint-detection",
    "license": "mit",
}


class Shared(PyTorchModelHubMixin):
    """The mixin, but a file that lacks a tensor, or has one too many, is refused."""

    @classmethod
    def _from_pretrained(cls, *, config: dict[str, Any] | None = None, strict: bool = True, **options: Any) -> Any:
        # A config.json of version 0.1 lists the encoder's numbers beside the others.
        known = config or {}
        flat = {field.name: known[field.name] for field in fields(EncoderConfig) if field.name in known}
        if flat:
            options.setdefault("encoder", EncoderConfig(**flat))
        return super()._from_pretrained(strict=strict, **options)


class SharedTransPoseR(TransPoseR, Shared, **ON_ITS_PAGE):
    """TransPose-R with `save_pretrained`, `push_to_hub` and `from_pretrained`."""


class SharedTransPoseH(TransPoseH, Shared, **ON_ITS_PAGE):
    """TransPose-H with `save_pretrained`, `push_to_hub` and `from_pretrained`."""


HUB_VARIANTS: dict[str, type] = {"transpose_r": SharedTransPoseR, "transpose_h": SharedTransPoseH}
