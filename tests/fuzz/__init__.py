"""Fuzzing of what reads hostile files: not part of ./check."""
