"""Calibration: data, one streaming pass, estimators, schemes, placement, Q/DQ, simulation."""
