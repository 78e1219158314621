"""Private copies: a network of the engine's own, whatever holds the user's, which is left as it is."""
