"""Networks of model libraries and of public habits, with random weights: right, or refused in a sentence."""
