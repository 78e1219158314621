"""Seen: sites as their random calls were seen, from the shapes of what these draw for two rows and for three."""

from dataclasses import replace

from mcdropout.engine.cutting.layout import growing, layout_between
from mcdropout.engine.cutting.placement import site_at
from mcdropout.engine.errors import UnevenRowsError
from mcdropout.engine.pytorch.random_call import Call
from mcdropout.engine.sites import Site, site_name


def site_of_one(call: Call, shared: bool, in_eval: bool) -> Site:
    """Describe a call that is made for each row by itself, or for none of them, from the shape of its mask."""
    p, scope = None if call.p is None else float(call.p), "pass" if shared else "row"
    shape = call.mask_shape
    return Site(call.path, call.number, call.kind, p, scope, shape, None, in_eval=in_eval, injected=call.injected)


def site_of(call: Call, shape_of_three: tuple[int, ...], in_eval: bool, interleaved: bool) -> Site:
    """Describe a call from the shapes of its mask with two rows and with three."""
    where = f"the {call.kind} draw of {site_name(call.path, call.number)}"
    two, layout = call.mask_shape, layout_between(call.mask_shape, shape_of_three)
    if not layout.known:
        axes = growing(two, shape_of_three) if len(two) == len(shape_of_three) else ()
        if len(axes) != 1:
            raise UnevenRowsError(
                f"{where} has the shape {list(two)} with 2 rows and {list(shape_of_three)} with 3; exactly one "
                "dimension may follow the rows"
            )
        (axis,) = axes
        raise UnevenRowsError(
            f"{where} has {two[axis]} entries for 2 rows and {shape_of_three[axis]} for 3; the same number for each "
            "row, whatever its values, is accepted: where x[mask] leaves out padding, or picks what an expert takes, "
            "dropout on all of x"
        )
    p = None if call.p is None else float(call.p)
    layout = replace(layout, interleaved=interleaved and layout.merged)
    site = site_at(layout, call.path, call.number, call.kind, p, in_eval=in_eval)
    return replace(site, injected=call.injected)
