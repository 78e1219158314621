"""Finding: what in a PyTorch network is random, by running it."""
