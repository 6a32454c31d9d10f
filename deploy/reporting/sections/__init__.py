"""Sections of the report, one file each; ``order`` in each says where it stands."""
