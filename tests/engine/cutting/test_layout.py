"""Where values have their rows, told by their shapes and by what changes with one row."""

import numpy as np
import pytest

from mcdropout.engine.cutting.layout import Layout, is_interleaved, layout_between


@pytest.mark.parametrize(
    ("two", "three", "layout"),
    [
        ((2, 4), (3, 4), Layout((3, 4), 0)),
        ((4, 2), (4, 3), Layout((4, 3), 1)),
        ((5, 8), (5, 12), Layout((5, 12), 1, 4)),
        ((4, 4), (4, 4), Layout((4, 4))),
        ((2, 2), (3, 3), Layout((3, 3), known=False)),
        ((2, 4), (3, 4, 1), Layout((3, 4, 1), known=False)),
        ((3, 4), (4, 4), Layout((4, 4), known=False)),
        ((4, 4), (5, 4), Layout((5, 4), known=False)),
    ],
)
def test_the_dimension_that_grows_by_as_many_entries_a_row_holds_the_rows(two, three, layout):
    assert layout_between(two, three) == layout


def test_a_row_of_several_entries_has_them_first_in_its_shape():
    assert Layout((5, 12), 1, 4).row_shape == (4, 5)
    assert Layout((5, 3), 1).row_shape == (5,)
    assert Layout((5, 3)).row_shape == (5, 3)


@pytest.mark.parametrize(
    ("changed", "found"),
    [([4, 5, 6, 7], False), ([5], False), ([], False), ([1, 4, 7, 10], True), ([1, 10], True), ([3, 4], None)],
)
def test_the_entries_that_change_with_the_middle_row_say_whether_a_row_lies_apart(changed, found):
    assert is_interleaved(np.array(changed, np.int64), 4) is found
