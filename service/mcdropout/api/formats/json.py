"""JSON, which every client speaks: `{"inputs": ...}` in, one object a row out. A NaN becomes null."""

from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from mcdropout.api.formats.answers import mc_of
from mcdropout.api.formats.format import Format
from mcdropout.api.schemas import PredictRequest
from mcdropout.catalogue.model import Model
from mcdropout.catalogue.rows import read_many_rows
from mcdropout.engine.statistics import TASKS, Prediction, Task
from mcdropout.predictions import Answered, Pause


def write(answered: Answered, pause: Pause) -> bytes:
    """An answer as `PredictResponse` describes it."""
    answer, plan = answered.answer, answered.answer.plan
    content: dict[str, Any] = {
        "model": answered.model.name,
        "version": answered.model.version,
        "mc": mc_of(plan),
        "seed": answered.seed,
    }
    if answered.p is not None:
        content["p"] = answered.p
    end: dict[str, Any] = {"timing": {"queue_seconds": answer.queue_seconds, "compute_seconds": answer.compute_seconds}}
    if plan.tolerance is not None:
        end["tolerance"] = plan.tolerance
    if plan.asked is not None:
        end["reduced_to"] = plan.passes
    parts: list[bytes] = []
    for rows in answered.parts():
        parts.append(orjson.dumps(_rows(answered, rows), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
        pause()
    return b'%b,"predictions":[%b],%b' % (orjson.dumps(content)[:-1], b",".join(parts), orjson.dumps(end)[1:])


def _rows(answered: Answered, which: slice) -> list[dict[str, Any]]:
    """Some rows, each as `schemas.py` describes a row of the model's task."""
    task, shown = TASKS[answered.shown[0].prediction.task], answered.shown
    columns = [_columns(one.prediction, task) for one in shown]
    classes = [name for name in task.class_fields if name in columns[0]]
    rows: list[dict[str, Any]] = []
    for share, place in answered.places[which]:
        row = {name: None if value is None else value[place] for name, value in columns[share].items()}
        row |= {name: _label(answered.model, row[name]) for name in classes if row[name] is not None}
        samples = shown[share].samples
        if samples is not None:
            row["samples"] = np.ascontiguousarray(samples[place])
        rows.append(row)
    return rows


def _columns(prediction: Prediction, task: Task) -> dict[str, npt.NDArray[Any] | None]:
    """The columns of a row, in their order: those that lead, the passes, and the others."""
    values = prediction.values
    leading = {name: values[name] for name in task.leading if name in values}
    return {**leading, "passes": prediction.passes, **values}


def _label(model: Model, label: Any) -> Any:
    labels = model.bundle.manifest.labels
    return label if labels is None else np.asarray(labels, object)[label].tolist() if np.ndim(label) else labels[label]


FORMAT = Format(
    name="JSON",
    media_types=("application/json",),
    read=read_many_rows,
    write=write,
    body_schema=PredictRequest.model_json_schema(),
    answer_schema={"$ref": "#/components/schemas/PredictResponse"},
    grows=lambda body: b'"b64"' in body,
    is_prepared=True,
    compressible=True,
)
