"""Pretrained backbones and their heads, in torch: loading, freezing, adapters, entering in the middle."""
