"""What the book needs around the package: exercises, notebook helpers, figures that move, shared runs."""
