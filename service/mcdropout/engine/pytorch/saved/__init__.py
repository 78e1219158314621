"""Saved networks: archives of torch.export and TorchScript, with their train mode given back."""
