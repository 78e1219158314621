"""Findings: what is known to go wrong with dropout in certain places.

A finding is advice, not a fault of the engine's: the network runs as it was trained, but for dropout that was added to
it, and the numbers are what its passes say. Each names a site, why it matters, and the source of that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mcdropout.engine.sites import Site, SiteOff


@dataclass(frozen=True)
class Finding:
    """Something worth knowing about a network's dropout.

    Attributes:
        code: a short name of what was found, for programs.
        site: which site; None for the network as a whole.
        text: what was found and why it matters.
        source: who has shown it.
    """

    code: str
    site: str | None
    text: str
    source: str


DROPOUT_PAPER = "N. Srivastava et al., Dropout, JMLR 15, 2014"
_INJECTION = (
    "E. Ledda, G. Fumera, F. Roli, Dropout injection at test time for post hoc uncertainty quantification in neural "
    "networks, Information Sciences 645, 2023 (arXiv 2302.02924)"
)


def findings_of_sites(sites: Sequence[Site], off: Sequence[SiteOff]) -> list[Finding]:
    """What the list of sites shows by itself."""
    found = [
        Finding(
            "off",
            site.name,
            f"is off: {site.reason}" + ("; it adds nothing to the uncertainty" if "p is 0" in site.reason else ""),
            DROPOUT_PAPER,
        )
        for site in off
    ]
    found += [
        Finding(
            "added-dropout",
            site.name,
            f"was added with p = {site.p:g}: unless the network was trained with just that, how wide its uncertainty "
            "is follows from p alone, which must be calibrated on data that it was not trained on",
            _INJECTION,
        )
        for site in sites
        if site.injected
    ]
    shared = [site.name for site in sites if site.scope == "pass"]
    if shared:
        found.append(
            Finding(
                "shared-mask",
                shared[0],
                f"draws one mask for all rows of a pass ({len(shared)} of {len(sites)} sites do): requests cannot "
                "share a batch",
                "L. Wan et al., Regularization of neural networks using DropConnect, ICML 2013",
            )
        )
    return found
