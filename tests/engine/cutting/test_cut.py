"""The cut of small graphs made by hand, whatever form real ones have."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from mcdropout.engine.cutting.cut import cut
from mcdropout.engine.cutting.graph import Operation
from mcdropout.engine.cutting.layout import Layout
from mcdropout.engine.program import FrontierValue

ROWS_FIRST = Layout((3, 4), 0)
MERGED = Layout((6, 5), 0, 2)


@dataclass(frozen=True)
class Graph:
    """A `CutGraph` of names: `x` and `z` are inputs, `m` is a mask, `w` a weight."""

    operations: tuple[Operation[str], ...]
    outputs: tuple[str, ...] = ("y",)
    inputs: tuple[str, ...] = ("x",)
    masks: tuple[str, ...] = ("m",)
    counts_sizes: bool = True
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    no_arrays: frozenset[str] = frozenset()
    bytes: Mapping[str, int] = field(default_factory=dict)

    def is_array(self, value):
        return value not in self.no_arrays

    def layout(self, value):
        return self.layouts.get(value, ROWS_FIRST)

    def row_bytes(self, value):
        return self.bytes.get(value, 0)


def graph(text, **more):
    """`"h = x w; n = |h|"`: what each operation gives and takes; one that looks at sizes alone has bars."""
    operations = []
    for line in text.split(";"):
        gives, takes = line.split("=")
        operations.append(Operation(tuple(takes.replace("|", " ").split()), tuple(gives.split()), "|" in takes))
    return Graph(tuple(operations), **more)


def parts(text, whole=False, merged=True, **more):
    """What crosses, and what is computed before and after."""
    found = cut(graph(text, **more), whole=whole, merged=merged)
    outline = found.outline
    assert (outline.prefix_operations, outline.suffix_operations) == (len(found.before), len(found.after))
    assert len(outline.frontier) == len(found.crossing)
    before, after = (" ".join(x for one in part for x in one.gives) for part in (found.before, found.after))
    return " ".join(found.crossing), before, after


def test_what_no_mask_touches_runs_once_a_row():
    assert parts("g = x w; h = g; d = h m; y = d w") == ("h", "g h", "d y")


def test_a_whole_program_takes_the_inputs_themselves():
    found = cut(graph("g = x w; h = g; d = h m; y = d w"), whole=True)
    assert (found.crossing, found.before, len(found.after)) == (("x",), (), 4)
    assert found.outline.frontier == (FrontierValue((4,), True, 0),)
    assert not found.outline.has_prefix


def test_values_cross_in_the_order_in_which_they_are_made():
    assert parts("g = x; h = g; d = h m; e = d g; y = e z", inputs=("x", "z")) == ("z g h", "g h", "d e y")


def test_an_input_that_meets_a_mask_is_the_frontier():
    assert parts("d = x m; y = d w") == ("x", "", "d y")


def test_an_input_crosses_whatever_its_type_and_layout():
    strange = {"x": Layout((4, 4), known=False)}
    assert parts("d = x m; y = d", layouts=strange, no_arrays=frozenset("x")) == ("x", "", "d y")
    assert cut(graph("d = x m; y = d", layouts=strange)).outline.frontier == (FrontierValue((4, 4), False, 0),)


def test_an_output_that_no_mask_reaches_crosses():
    assert parts("h = x w; y = h m; u = h", outputs=("y", "u")) == ("h u", "h u", "y")


def test_what_nothing_needs_is_no_part_of_the_prefix():
    assert parts("h = x w; unused = h; y = h m") == ("h", "h", "y")


def test_what_is_made_of_sizes_or_weights_alone_is_computed_again_instead_of_crossing():
    assert parts("h = x; n = |x|; s = n; v = w; d = h m; e = d s; y = e v") == ("h", "h", "d e y")


def test_nothing_waits_for_a_mask_because_of_the_size_of_what_it_reaches():
    text = "h = x; d = h m; n = |d|; p = h n; e = d p; y = e"
    assert parts(text) == ("h p", "h p", "d e y")
    assert "d" not in cut(graph(text)).prefix_values


def test_the_size_of_what_a_mask_reaches_is_waited_for_where_the_prefix_cannot_count_it():
    text = "h = x; d = h m; n = |d|; p = h n; q = p; e = d q; y = e"
    assert parts(text, counts_sizes=False) == ("h", "h", "d p q e y")


@pytest.mark.parametrize(
    "strange",
    [
        {"layouts": {"h": Layout((6, 6), known=False)}},
        {"layouts": {"h": Layout((6, 5), 0, 2, apart=False)}},
        {"no_arrays": frozenset("h")},
    ],
    ids=["its rows are nowhere in particular", "its rows share entries", "no array holds it"],
)
def test_what_cannot_cross_is_computed_in_the_suffix(strange):
    assert parts("g = x w; h = g; d = h m; y = d", **strange) == ("g", "g", "h d y")


def test_what_an_operation_gives_stays_together():
    layouts = {"h": Layout((6, 6), known=False)}
    assert parts("g = x; h k = g; d = h m; y = d k", layouts=layouts) == ("g", "g", "h k d y")


def test_what_cannot_cross_takes_along_what_cannot_cross_before_it():
    layouts = dict.fromkeys(("g", "h"), Layout((6, 6), known=False))
    assert parts("f = x; g = f; h = g; d = h m; y = d", layouts=layouts) == ("f", "f", "g h d y")


def test_rows_that_share_a_dimension_cross_only_where_that_is_asked_for():
    text, layouts = "g = x; h = g; d = h m; y = d", {"h": MERGED}
    assert parts(text, layouts=layouts) == ("h", "g h", "d y")
    assert cut(graph(text, layouts=layouts)).outline.frontier == (FrontierValue((2, 5), True, None, merged=True),)
    assert parts(text, layouts=layouts, merged=False) == ("g", "g", "h d y")


def test_a_value_without_rows_is_shared_by_all_pairs():
    found = cut(graph("h = x; y = h m", layouts={"h": Layout((7, 2))}))
    assert found.outline.frontier == (FrontierValue((7, 2), False, None),)


def test_the_memory_of_a_pair_is_that_of_what_crosses_and_of_what_is_computed_behind_it():
    sizes = {"x": 1, "g": 2, "h": 4, "d": 8, "k": 16, "y": 32}
    assert cut(graph("g = x; h = g; d k = h m; y = d", bytes=sizes)).outline.suffix_bytes == 4 + 8 + 16 + 32


def test_what_the_prefix_is_made_of_has_its_weights_and_sizes():
    found = cut(graph("n = |x|; h = x n w; y = h m"))
    assert found.prefix_values == {"x", "n", "w", "h"}
    assert found.masked == {"m", "y"}
