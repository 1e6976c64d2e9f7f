"""An ONNX graph as TensorRT's network, or an error that says which node and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgellama.optimize.error import BuildError
from edgellama.optimize.tensorrt.log import explained, logger_of
from edgellama.runtime.manifest import TensorInfo

if TYPE_CHECKING:
    from edgellama.optimize.tensorrt.library import Library, Network, NetworkBuilder, Parser

_SHOWN = 8  # errors of the parser


def parse_graph(
    library: Library, builder: NetworkBuilder, graph: Path, inputs: Sequence[TensorInfo]
) -> tuple[Network, Parser]:
    """Read a graph and its external data into a strongly typed network.

    Keep the parser as long as the network: it holds the weights. Raises BuildError. A file that
    the parser crashes on ends the process; the one known case is a graph whose operator is a
    plugin that was registered from Python.
    """
    if not graph.is_file():
        raise BuildError(f"{graph} does not exist; export the model again")
    log, messages = logger_of(library)
    # The only kind from 11.0 on, where the flag is ignored.
    typed = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = library.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        errors = _node_errors(parser) or [messages.explain("the parser gave no reason")]
        raise BuildError(
            f"{graph}: {library.__name__} {library.__version__} cannot read the graph: "
            f"{'; '.join(errors)}"
        )
    found = {network.get_input(index).name for index in range(network.num_inputs)}
    wanted = {tensor.name for tensor in inputs}
    if found != wanted:
        raise BuildError(
            f"{graph} has not the inputs of the target: missing {sorted(wanted - found)}, not "
            f"known {sorted(found - wanted)}; export and optimise the model again"
        )
    return network, parser


def _node_errors(parser: Parser) -> list[str]:
    """Return the parser's errors as `operator 'node' (number): reason`, the first ones.

    Before it reads a node the parser checks all of them, so the list is whole for operators and
    attributes that it does not support. `supports_model_v2` gives the same list (1.7.1), for the
    price of another parse.
    """
    texts = []
    for index in range(min(parser.num_errors, _SHOWN)):
        error = parser.get_error(index)
        reason = explained(error.desc().strip())
        if error.node() < 0:
            texts.append(reason)
            continue
        name = f" {error.node_name()!r}" if error.node_name() else ""
        texts.append(f"{error.node_operator()}{name} (node {error.node()}): {reason}")
    if parser.num_errors > _SHOWN:
        texts.append(f"and {parser.num_errors - _SHOWN} more")
    return texts


def count_layers(network: Network) -> dict[str, int]:
    """Return how many layers of each type a network has, the most frequent first."""
    kinds = Counter(network.get_layer(index).type.name for index in range(network.num_layers))
    return dict(kinds.most_common())
