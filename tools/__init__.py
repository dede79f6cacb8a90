"""Tools that make and check the book. They are run from a clone, and are not part of the package."""
