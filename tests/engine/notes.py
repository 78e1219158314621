"""What networks of the tests write to in a file that is not their own."""

NOTES: list[object] = []
LATEST: dict[str, object] = {"x": None}


def note(x: object) -> None:
    """Keep `x`."""
    global SEEN
    NOTES.append(x)
    SEEN = len(NOTES)
