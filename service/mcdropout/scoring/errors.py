"""What cannot be scored."""


class ScoringError(Exception):
    """A file, or what is asked of it, cannot be used. The message names it, and what is accepted."""
