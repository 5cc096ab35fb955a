"""TransPose on the Hugging Face Hub: networks that know their numbers, as safetensors beside a config.json.

network = zoo.pretrained("tp_r_a4", kinds=hub.MODELS); network.push_to_hub("me/transpose-r-a4")
network = hub.MODELS["transpose_r"].from_pretrained("me/transpose-r-a4")
"""

from typing import Any

from ..errors import UserError
from .transpose import TransPoseH, TransPoseR

try:
    import safetensors.torch  # noqa: F401  the mixin's format
    from huggingface_hub import PyTorchModelHubMixin
except ModuleNotFoundError as error:
    raise UserError(
        f"the Hugging Face Hub needs the package {error.name}, which is not installed: "
        "pip install huggingface_hub safetensors"
    ) from None

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
    def _from_pretrained(cls, *, strict: bool = True, **place: Any) -> Any:
        return super()._from_pretrained(strict=strict, **place)


class SharedTransPoseR(TransPoseR, Shared, **ON_ITS_PAGE):
    """TransPose-R with `save_pretrained`, `push_to_hub` and `from_pretrained`."""


class SharedTransPoseH(TransPoseH, Shared, **ON_ITS_PAGE):
    """TransPose-H with `save_pretrained`, `push_to_hub` and `from_pretrained`."""


HUB_VARIANTS: dict[str, type] = {"transpose_r": SharedTransPoseR, "transpose_h": SharedTransPoseH}
