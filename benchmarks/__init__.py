"""Suites that measure; never shipped in the wheel, never asserted in tests."""
