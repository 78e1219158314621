"""PyTorch networks: what in them is random, as masks; export, and the split where masks enter."""
