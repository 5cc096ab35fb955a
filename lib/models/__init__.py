"""The networks: a CNN, a Transformer encoder and a heatmap head."""
