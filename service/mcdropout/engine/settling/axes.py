"""The dimension of an output that holds its classes or labels."""

from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.settling.seen import Seen, are_of_an_input, refused


def class_axis(seen: Seen) -> tuple[int, str | None]:
    """The dimension of the classes or labels, and how it was found."""
    shape, given = seen.shape, seen.reading.class_axis
    if given is not None:
        axis = seen.within(given)
        if seen.reading.classes not in (None, shape[axis]):
            raise _mislabelled(seen, shape[axis])
        return axis, None
    if len(shape) == 2:
        if seen.reading.classes not in (None, shape[1]):
            raise _mislabelled(seen, shape[1])
        return 1, None
    axes = range(1, len(shape))
    found: list[tuple[list[int], str]] = []
    if seen.evidence.axis is not None:
        found.append(([seen.within(seen.evidence.axis)], f"the {seen.evidence.end} at its end runs along it"))
    summed = [axis for axis in axes if seen.sums_to_one(axis) or seen.sums_to_one(axis, logarithm=True)]
    found.append((summed, "it sums to one"))
    if seen.reading.classes is not None:
        labelled = [axis for axis in axes if shape[axis] == seen.reading.classes]
        if not labelled:
            raise refused(seen, f"of which none has {seen.reading.classes} entries, as many as labels are given")
        found.append((labelled, "it has as many entries as there are labels"))
    for candidates, why in found:
        if len(candidates) == 1:
            return candidates[0], f"dimension {candidates[0]} holds the classes: {why}"
    left = [axis for axis in axes if axis not in seen.followed.axes]
    found = [(left, "the others follow the sizes of an input")] if len(left) < len(axes) else []
    found += [
        (
            [axis for axis in left if shape[axis] == classes],
            "it has as many entries as the network's configuration names",
        )
        for classes in seen.evidence.classes
    ]
    if len(left) == len(axes):
        found.append((_left_over(seen), "the others are those of an input"))
    for candidates, why in found:
        if len(candidates) == 1:
            return candidates[0], f"dimension {candidates[0]} holds the classes: {why}"
    raise refused(
        seen,
        f"of which more than one dimension may hold the classes; output: {{classes: 1}} or output: {{classes: "
        f"{len(shape) - 1}}} says which (in Python, class_axis; -1 is the last)",
    )


def _left_over(seen: Seen) -> list[int]:
    """The dimensions that can be those of the classes, the others being those of an input: its places or steps.

    Of inputs whose sizes cannot be changed: else the output would follow them.
    """
    shape, found = seen.shape, []
    places = len(shape) - 2
    fixed = [
        x.shape[1:]
        for index, (x, own) in enumerate(zip(seen.examples, seen.spatial, strict=True))
        if own and index not in seen.followed.inputs
    ]
    if any(are_of_an_input(shape[2:], x) for x in fixed):
        found.append(1)
    if any(shape[1:-1] in (x[:places], x[len(x) - places :]) and len(x) <= places + 1 for x in fixed):
        found.append(len(shape) - 1)
    return found


def _mislabelled(seen: Seen, classes: int) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"labels has {seen.reading.classes} entries; the network's {classes} classes are accepted"
    )
