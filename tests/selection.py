"""Selection: which tests a run has. All with `--long`; else those that a change has to pass, in a few minutes.

A test that is marked `long` takes long and shows what others show in part. Of one that is marked `wide`, whose cases
are many and much alike, a quarter is run, spread over all of them and always the same, and one at least.
"""

from collections import defaultdict

import pytest

_SHARE = 0.25
_GOLDEN = 0.6180339887498949  # whose multiples are spread evenly, however the cases repeat


def add_option(parser: pytest.Parser) -> None:
    """Let a run have all tests."""
    parser.addoption("--long", action="store_true", help="run all tests, those that take long too")


def deselect(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a short run has not."""
    if config.getoption("--long"):
        return
    cases: dict[str, int] = defaultdict(int)
    kept, left = [], []
    for item in items:
        (kept if _is_run(item, cases) else left).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = kept


def _is_run(item: pytest.Item, cases: dict[str, int]) -> bool:
    if item.get_closest_marker("long"):
        return False
    if item.get_closest_marker("wide") is None:
        return True
    test = item.nodeid.partition("[")[0]
    case = cases[test]
    cases[test] += 1
    return case * _GOLDEN % 1.0 < _SHARE
