"""Bundles as model repositories of Triton, and what asks a running server."""
