"""What is measured, and against whom. Run from the root of the repository."""
