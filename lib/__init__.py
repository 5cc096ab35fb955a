"""TransPose (ICCV 2021, arXiv 2012.14214): keypoint localisation by a CNN, a Transformer encoder and heatmaps."""

__version__ = "0.1.0"
