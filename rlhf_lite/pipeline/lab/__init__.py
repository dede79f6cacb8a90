"""Every algorithm against the exact optimum, in worlds small enough to list."""
