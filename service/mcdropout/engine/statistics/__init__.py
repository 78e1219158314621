"""Statistics: what N passes say, gathered as they come, in memory that does not grow with N. Sums are float64.

A statistic a file: the state that gathers the passes for it (`update`, `take`), where it needs one, and its fields,
which say what they are and how their values follow. What several need is found once: a task reads the outputs of some
passes into a block, which all states share; a field finds other fields' values in the summary. `tasks` has the table.

To add one, make a `Field` and `register` it, or put it into the table.
"""

from mcdropout.engine.statistics.accumulator import Statistics as Statistics
from mcdropout.engine.statistics.accumulator import deterministic as deterministic
from mcdropout.engine.statistics.block import Rows as Rows
from mcdropout.engine.statistics.faults import Faults as Faults
from mcdropout.engine.statistics.faults import check_usable as check_usable
from mcdropout.engine.statistics.faults import none_of as none_of
from mcdropout.engine.statistics.field import Field as Field
from mcdropout.engine.statistics.field import State as State
from mcdropout.engine.statistics.field import Summary as Summary
from mcdropout.engine.statistics.prediction import Prediction as Prediction
from mcdropout.engine.statistics.prediction import concatenate as concatenate
from mcdropout.engine.statistics.prediction import take as take
from mcdropout.engine.statistics.reduction import Reduction as Reduction
from mcdropout.engine.statistics.tasks import TASKS as TASKS
from mcdropout.engine.statistics.tasks import Task as Task
from mcdropout.engine.statistics.tasks import described_reading as described_reading
from mcdropout.engine.statistics.tasks import register as register
from mcdropout.engine.statistics.view import ALL as ALL
from mcdropout.engine.statistics.view import View as View
from mcdropout.engine.statistics.view import places_of as places_of
