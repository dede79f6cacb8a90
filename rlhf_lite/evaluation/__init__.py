"""Judges, statistics and reports: how a run is measured."""
