"""Learning from preferences: the records of a pair, their log-probabilities, and the tasks built on them."""
