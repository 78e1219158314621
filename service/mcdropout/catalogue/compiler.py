"""The compiler: the process that compiles one bundle, and ends.

python -m mcdropout.catalogue.compiler BUNDLE INTO MEMORY_BYTES
"""

import json
import os
import resource
import sys
from functools import partial
from pathlib import Path

from mcdropout.catalogue.bundle import Bundle
from mcdropout.catalogue.compilation import OUTCOME, STAGE, Outcome
from mcdropout.catalogue.manifest import BundleError
from mcdropout.catalogue.provenance import SOURCES, sources_of
from mcdropout.catalogue.reads import Reads
from mcdropout.engine.errors import EngineError, NoDropoutError, UnsupportedModelError
from mcdropout.engine.stages import listening
from mcdropout.machine import die_with_parent


def compile_here(folder: Path, into: Path) -> tuple[Outcome, str | None]:
    """Compile a bundle in this process: what came of it, and why not, where it did not."""
    from mcdropout.catalogue.model import model_of
    from mcdropout.catalogue.network import subject_of
    from mcdropout.engine import Engine

    try:
        bundle = Bundle(folder)
        with Reads(bundle.folder) as reads:
            engine = Engine.prepare(subject_of(bundle), bundle.manifest.reading)
            model_of(bundle, engine)
    except NoDropoutError as error:
        return "without_dropout", str(error)
    except (BundleError, EngineError) as error:
        return "refused", str(error)
    except ImportError as error:
        return (
            "refused",
            f"{folder}: compiling it takes {error.name}, which is not installed; "
            "pip install 'mcdropout[torch]' mends it",
        )
    except MemoryError:
        return "refused", f"{folder}: compiling it takes more memory than is accepted"
    try:
        engine.save(into)
    except UnsupportedModelError as error:
        return "needs_pytorch", str(error)
    (into / SOURCES).write_text(json.dumps(sources_of(bundle, reads), indent=1) + "\n")
    return "compiled", None


def _tell(place: Path, stage: str) -> None:
    """Leave word of what is being done, whole at any time that it is read."""
    written = place.with_suffix(".new")
    written.write_text(stage)
    written.replace(place)


def main(folder: str, into: str, memory_bytes: str) -> None:
    """Compile the bundle of a folder, and leave in `into` what came of it."""
    die_with_parent()
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text("1000")  # if memory runs out, let it be this process that goes
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory_bytes), int(memory_bytes)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with listening(partial(_tell, Path(into) / STAGE)):
        outcome, error = compile_here(Path(folder), Path(into))
    (Path(into) / OUTCOME).write_text(json.dumps({"outcome": outcome, "error": error}))
    # At once: what a network's code left running, or what cannot be unloaded, is not waited for.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
