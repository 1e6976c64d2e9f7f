"""Keep keys and values as int8 in the cache of `GroupQueryAttention`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgellama.optimize.passes.edit import add_initializer
from edgellama.optimize.passes.match import dim, operand

KEY_SCALE, VALUE_SCALE = 12, 13
_MODE = "PER_CHANNEL"


def quantize_attention(
    node: ir.Node, key_steps: npt.NDArray[np.float32], value_steps: npt.NDArray[np.float32]
) -> None:
    """Give one `GroupQueryAttention` an int8 cache; steps float32 [1] or [kv_heads * head_dim].

    Raises ValueError for another number of steps, or steps that are not positive.
    """
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    caches = (operand(node, 3), operand(node, 4))
    layer = (caches[0].name or "").split(".")[1]
    values = []
    for kind, cache, steps in zip(("key", "value"), caches, (key_steps, value_steps), strict=True):
        channels = dim(cache, 1) * dim(cache, 3)
        scale = np.broadcast_to(steps, (channels,)) if steps.shape == (1,) else steps
        if scale.shape != (channels,) or not (scale > 0).all():
            raise ValueError(f"scales of {layer}.{kind} must be {channels} positive numbers")
        name = f"kv_scale.{layer}.{kind}"
        tensor = ir.tensor(np.ascontiguousarray(scale), name=name)
        values.append(add_initializer(graph, name, tensor))
    node.resize_inputs(VALUE_SCALE + 1)
    node.replace_input_with(KEY_SCALE, values[0])
    node.replace_input_with(VALUE_SCALE, values[1])
    for name in ("k_quant_type", "v_quant_type"):
        node.attributes[name] = ir.AttrString(name, _MODE)
    node.attributes["kv_cache_bit_width"] = ir.AttrInt64("kv_cache_bit_width", 8)
    for value in (*caches, *node.outputs[1:3]):
        value.type = ir.TensorType(ir.DataType.INT8)
