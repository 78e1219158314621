"""Monte Carlo dropout, usable alone: `Engine.from_module(network, example)` and `engine.predict(x)`."""

from service.engine.engine import Engine as Engine
from service.engine.errors import EngineError as EngineError
from service.engine.errors import InvalidInputError as InvalidInputError
from service.engine.errors import NonFiniteOutputError as NonFiniteOutputError
from service.engine.errors import UnsupportedModelError as UnsupportedModelError
from service.engine.errors import VerificationError as VerificationError
from service.engine.program import Program as Program
from service.engine.selection import Selection as Selection
from service.engine.sites import Site as Site
from service.engine.sites import SiteOff as SiteOff
from service.engine.statistics import ClassificationPrediction as ClassificationPrediction
from service.engine.statistics import Prediction as Prediction
from service.engine.statistics import RegressionPrediction as RegressionPrediction
from service.engine.verify import Check as Check
