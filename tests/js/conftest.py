"""The bundles of the explorer's tests, and Node."""

from tests.explorer.conftest import bundle, colour, node

__all__ = ["bundle", "colour", "node"]
