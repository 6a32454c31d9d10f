"""Bundles as models of lm-evaluation-harness, and what its tasks say of them."""
