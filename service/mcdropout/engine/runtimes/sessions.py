"""Sessions of ONNX Runtime: graphs, loaded, and how they are to run.

ONNX Runtime is imported with the first session: what only names the options of one does without.
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.program import Graph
from mcdropout.engine.threads import thread_count

Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]
Optimization = Literal["all", "extended", "basic", "none"]

_CPU = "CPUExecutionProvider"
_PROVIDERS: dict[str, str] = {
    "cpu": _CPU,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
_LEVELS: dict[str, str] = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}


@dataclass(frozen=True)
class SessionOptions:
    """How ONNX Runtime runs graphs.

    Attributes:
        provider: what executes them: "cpu", or, where an ONNX Runtime that has it is installed, "cuda", "tensorrt" or
            "openvino"; what a provider does not know runs on the CPU.
        optimization: how far graphs are rewritten: "all", "extended", "basic" or "none".
        arena: whether memory for values is kept from run to run, which is faster, or given back. What is kept, all
            sessions of the process share.
    """

    provider: Provider = "cpu"
    optimization: Optimization = "all"
    arena: bool = True

    def check(self) -> None:
        """Raise InvalidInputError for the first that cannot be used."""
        import onnxruntime

        for name, value, known in (
            ("provider", self.provider, get_args(Provider)),
            ("optimization", self.optimization, get_args(Optimization)),
        ):
            if value not in known:
                raise InvalidInputError(f"{name} is {value!r}; one of {', '.join(known)} is accepted")
        there = onnxruntime.get_available_providers()
        if _PROVIDERS[self.provider] not in there:
            usable = [name for name, full in _PROVIDERS.items() if full in there]
            raise InvalidInputError(
                f"provider is {self.provider!r}, which the installed ONNX Runtime {onnxruntime.__version__} lacks; "
                f"{', '.join(usable)} is accepted, or the package onnxruntime-gpu or onnxruntime-openvino in place of "
                "onnxruntime"
            )


class Session:
    """A graph, loaded. Thread-safe."""

    def __init__(self, graph: Graph, options: SessionOptions, *, one_thread: bool = False) -> None:
        """
        Args:
            graph: what to load.
            options: how to run it.
            one_thread: run it on the thread that asks, instead of on all.
        """
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        # Threads of its own: ONNX Runtime's shared pool cannot be made to stop spinning, and takes whole cores from the
        # rest of a server: half of the processor time of one with 32 clients and two cores.
        settings.intra_op_num_threads = 1 if one_thread else thread_count()
        # A thread that spins after a run keeps a core from whoever has the next work: the other session, the drawing
        # of masks, the event loop. Measured on two cores, 8 rows and 100 passes of mnist-cnn: 7.4 ms where threads
        # spin on, 3.7 where they never do, 2.9 where they stop with the run.
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[options.optimization])
        settings.enable_cpu_mem_arena = options.arena
        self._trimming: Any = None
        self._trims = False
        if options.arena:
            _share_arena()
            settings.add_session_config_entry("session.use_env_allocators", "1")
            self._trimming = onnxruntime.RunOptions()
            self._trimming.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        settings.log_severity_level = 4  # errors are raised; what is beneath them is for ONNX Runtime's own makers
        providers = list(dict.fromkeys([_PROVIDERS[options.provider], _CPU]))
        self._session = onnxruntime.InferenceSession(graph.path, settings, providers=providers)
        wanted = {value.name for value in self._session.get_inputs()}
        self._inputs = [(index, name) for index, name in enumerate(graph.inputs) if name in wanted]
        self._outputs = [value.name for value in self._session.get_outputs()]  # else asked for with every run

    def run(self, values: tuple[Array, ...]) -> tuple[Array, ...]:
        """The graph's outputs for its inputs."""
        given = {name: values[index] for index, name in self._inputs}
        if not self._trims:
            return tuple(self._session.run(self._outputs, given))
        self._trims = False
        return tuple(self._session.run(self._outputs, given, self._trimming))

    def trim(self) -> None:
        """Give back, after the next run, the memory that is kept from run to run: that run takes more than others."""
        self._trims = self._trimming is not None


@functools.cache
def _share_arena() -> None:
    """Have one arena for all sessions of this process.

    Each would keep for itself as much as its largest run took, and there are up to three for a model.
    """
    import onnxruntime

    kind, use = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo("Cpu", kind, 0, use), None)
