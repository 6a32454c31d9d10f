"""A checkpoint's own torch modules as an engine, in float or with INT8 linear layers."""
