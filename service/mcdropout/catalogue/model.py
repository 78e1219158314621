"""Models: bundles that may serve."""

from dataclasses import dataclass

from mcdropout.catalogue.bundle import Bundle
from mcdropout.engine import Engine


@dataclass(frozen=True)
class Model:
    """A model that may serve: a bundle, and the engine that was made of it and verified."""

    bundle: Bundle
    engine: Engine

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.bundle.manifest.name

    @property
    def version(self) -> str:
        """The bundle's version, which every answer carries."""
        return self.bundle.manifest.version
