"""The tiny model, data and settings of the pipeline's tests, for the runs that chapters share."""

from tests.pipeline.conftest import base, data, settings

__all__ = ["base", "data", "settings"]
