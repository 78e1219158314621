"""Scoring: predictions for a file of any size, in this process, a part at a time, so that what stopped can go on."""
