"""The model and the ratings: fetched once, checked, unpacked, kept."""
