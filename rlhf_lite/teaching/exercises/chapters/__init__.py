"""Solutions and known mistakes of the exercises, a module for each chapter.

An exercise ``name`` is solved by the function of that name. ``MISTAKES[name]`` holds the well-known wrong
solutions, under the names that the chapter's file in ``data/`` explains; that file also holds the texts, the
inputs and the answers. The mistakes serve to explain a failure, and to test that the cases are hard enough.
"""
