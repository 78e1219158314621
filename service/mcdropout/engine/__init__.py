"""Monte Carlo dropout, usable alone: `Engine.from_module(network, example)` and `engine.predict(x)`."""

from mcdropout.engine.checks import Check as Check
from mcdropout.engine.engine import Engine as Engine
from mcdropout.engine.errors import EngineError as EngineError
from mcdropout.engine.errors import InvalidInputError as InvalidInputError
from mcdropout.engine.errors import NonFiniteOutputError as NonFiniteOutputError
from mcdropout.engine.errors import UnsupportedModelError as UnsupportedModelError
from mcdropout.engine.errors import VerificationError as VerificationError
from mcdropout.engine.program import Program as Program
from mcdropout.engine.selection import Selection as Selection
from mcdropout.engine.sites import Site as Site
from mcdropout.engine.sites import SiteOff as SiteOff
from mcdropout.engine.statistics import Prediction as Prediction
