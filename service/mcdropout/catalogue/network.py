"""Subjects: a bundle's network, PyTorch or ONNX, as the engine prepares it."""

from mcdropout.catalogue.bundle import Bundle
from mcdropout.catalogue.manifest import BundleError
from mcdropout.engine.inputs import Inputs
from mcdropout.engine.subject import Subject

EXAMPLES = 8
"""How many rows are drawn for a bundle that brings no examples of its own."""


def subject_of(bundle: Bundle) -> Subject:
    """Find out what in a bundle's network is random. Of a PyTorch network it runs the code.

    Raises:
        BundleError: the bundle is wrong.
        EngineError: its network cannot be served.
    """
    if bundle.manifest.is_compiled_alone:
        raise BundleError(
            f"{bundle.folder}: it holds what was compiled of a network, and not the network; a bundle of the network "
            "itself is accepted where it is to be compiled or inspected"
        )
    manifest, inputs = bundle.manifest, examples_of(bundle)
    missing = any(spec.takes_missing for spec in manifest.takes)
    if manifest.is_onnx:
        from mcdropout.engine.onnx.model import understand as understand_graph

        assert manifest.model is not None
        return understand_graph(
            bundle.inside("model", manifest.model),
            inputs,
            row_axis=[spec.row_axis for spec in manifest.takes],
            output=manifest.output.entries,
            output_row_axis=manifest.output_row_axis,
            missing=missing,
            selection=manifest.selection,
            reading=manifest.reading,
            shapes=manifest.shapes,
            sizes=manifest.bounds,
        )
    from mcdropout.catalogue.code import load_network
    from mcdropout.engine.pytorch.module import understand as understand_module

    return understand_module(
        load_network(bundle),
        inputs,
        row_axis=[spec.row_axis for spec in manifest.takes],
        output=manifest.output.entries,
        output_row_axis=manifest.output_row_axis,
        missing=missing,
        selection=manifest.selection,
        reading=manifest.reading,
        shapes=manifest.shapes,
        sizes=manifest.bounds,
        halves=manifest.halves,
    )


def examples_of(bundle: Bundle) -> Inputs:
    """Example rows as the bundle's network takes them."""
    return bundle.manifest.for_network(bundle.examples(EXAMPLES))
