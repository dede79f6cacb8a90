"""Preference files of any common format: found, read, checked row by row."""
