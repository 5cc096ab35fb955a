"""TransPose on the Hugging Face Hub: networks as safetensors, with their settings in a config.json.

network = zoo.pretrained("tp_r_a4", variants=hub.HUB_VARIANTS); network.push_to_hub("me/transpose-r-a4")
network = hub.HUB_VARIANTS["transpose_r"].from_pretrained("me/transpose-r-a4")

Data sets and results are added to the model card by push_to_hub(…, model_card_kwargs={"datasets": ["me/hands"],
"results": "AP 0.71 on …, measured by …"}).
"""

from dataclasses import fields
from typing import Any

from ..errors import missing
from .backends import input_size
from .encoder import EncoderConfig
from .transpose import TransPoseH, TransPoseR
from .weights import refuse_unusable

try:
    import safetensors.torch  # noqa: F401  the mixin's format
    from huggingface_hub import PyTorchModelHubMixin
except ModuleNotFoundError as error:
    raise missing(error.name or "huggingface_hub", "hub") from None

CARD = """---
{{ card_data }}
{% if datasets %}datasets: {{ datasets | tojson }}
{% endif %}metrics: [oks-ap]
---

# {{ network }}: keypoints of a person in a crop

{{ network }} with {{ joints }} keypoints and {{ parameters }} parameters, of the paper *TransPose: Keypoint
Localization via Transformer* (ICCV 2021): a CNN, a Transformer encoder, and heatmaps.

## Use

```python
from transpose.models.hub import HUB_VARIANTS

network = HUB_VARIANTS["{{ variant }}"].from_pretrained("USER/NAME").eval()
heatmaps = network(images)
# (B, 3, {{ height }}, {{ width }}) -> (B, {{ joints }}, {{ height // 4 }}, {{ width // 4 }})
```

**Input**: the crop of one person, {{ width }} x {{ height }} pixels, RGB from 0 to 1, less the mean (0.485, 0.456,
0.406), divided by (0.229, 0.224, 0.225). A detector finds the persons first. **Output**: a heatmap a keypoint at a
quarter of the size. `transpose.Predictor` does all of it, from an image to keypoints in its pixels.

## Training, results and limits

{{ results or "Not stated: what the weights were trained on, and the AP that they reach." }}

The network finds one person per crop. Left and right are the person's own. Every keypoint gets coordinates, even a
hidden one: look at the scores. Do not use keypoints to identify or to judge people.

## Source

- Code: {{ repo_url }}
- Paper: {{ paper_url }}

```bibtex
@inproceedings{yang2021transpose,
  title={TransPose: Keypoint Localization via Transformer},
  author={Yang, Sen and Quan, Zhibin and Nie, Mu and Yang, Wankou},
  booktitle={ICCV},
  year={2021}
}
```
"""
ON_ITS_PAGE = {
    "model_card_template": CARD,
    "library_name": "transpose",
    "repo_url": "https://github.com/yangsenius/TransPose",
    "paper_url": "https://arxiv.org/abs/2012.14214",
    "pipeline_tag": "keypoint-detection",
    "license": "mit",
    "tags": ["pose-estimation", "keypoints", "transformer"],
}


class Shared(PyTorchModelHubMixin):
    """The mixin, but with an error for a file that lacks a tensor or has an unknown one."""

    @classmethod
    def _from_pretrained(cls, *, config: dict[str, Any] | None = None, strict: bool = True, **options: Any) -> Any:
        # A config.json of version 0.1 lists the encoder's numbers beside the others.
        known = config or {}
        flat = {field.name: known[field.name] for field in fields(EncoderConfig) if field.name in known}
        if flat:
            options.setdefault("encoder", EncoderConfig(**flat))
        network = super()._from_pretrained(strict=strict, **options)
        refuse_unusable(network.state_dict(), network.state_dict(), source=str(options["model_id"]))
        return network

    def generate_model_card(self, *args: Any, **kwargs: Any) -> Any:
        """The model card, with what the network knows about itself."""
        network: Any = self
        width, height = input_size(network)
        variant, name = next(
            (key, kind.__bases__[0].__name__) for key, kind in HUB_VARIANTS.items() if type(self) is kind
        )
        about = {
            "network": name.replace("TransPose", "TransPose-"),
            "variant": variant,
            "parameters": f"{sum(p.numel() for p in network.parameters()):,}",
            "joints": network.final_layer.out_channels,
            "width": width,
            "height": height,
        }
        return super().generate_model_card(*args, **about | kwargs)


class SharedTransPoseR(TransPoseR, Shared, **ON_ITS_PAGE):
    """TransPose-R with `save_pretrained`, `push_to_hub` and `from_pretrained`."""


class SharedTransPoseH(TransPoseH, Shared, **ON_ITS_PAGE):
    """TransPose-H with `save_pretrained`, `push_to_hub` and `from_pretrained`."""


HUB_VARIANTS: dict[str, type] = {"transpose_r": SharedTransPoseR, "transpose_h": SharedTransPoseH}
