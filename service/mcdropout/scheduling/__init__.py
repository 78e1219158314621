"""Scheduling: requests cut into steps of the engine; how much may wait, and whose turn it is."""
