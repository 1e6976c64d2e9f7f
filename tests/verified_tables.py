"""Print the tables of docs/verified.md.

PYTHONPATH=tests/optimize:tests/profiles python tests/verified_tables.py
"""

from __future__ import annotations

from refusals import REFUSALS
from rtx_matrix import STAND_INS, cells

from edgellama.profiles.plan import require_fit
from edgellama.profiles.profile import Profile, ProfileError, load_gpu, load_profile, profile_names

# The bindings of TensorRT whose stubs builder and runtime are typed against: those of `typings/`
# and of `OLDER` in tests/test_typings.py.
BINDINGS = ("10.13.3", "10.16.1", "11.4.0")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- ", "|---") + "\n"


def _graph(profile: Profile) -> str:
    """Say how the graph of its precision ran on ONNX Runtime's CPU."""
    if profile.precision.compute == "bf16":
        return "with float16, as a CPU has no bfloat16"
    return "yes"


def _plan(profile: Profile) -> str:
    """Say for which GPU its precision, on a small model, was compiled."""
    gpu = profile.device.gpu
    assert gpu is not None
    if profile.build.target == "trt-plugin":
        return "it has no plugins"
    if gpu.rtx:
        return f"for {gpu.compute_capability}"
    near = load_gpu(STAND_INS[profile.name]).compute_capability
    return f"for {near} instead"


def _typed(profile: Profile) -> str:
    """Say against which of its versions of TensorRT the code is typed."""
    assert profile.tensorrt is not None
    found = [version for version in BINDINGS if version in profile.tensorrt.range]
    return ", ".join(found) or f"none: the oldest is {BINDINGS[0]}"


def profile_table() -> str:
    """What was proved of every profile."""
    rows = []
    for name in profile_names():
        profile = load_profile(name)
        gpu, precision = profile.device.gpu, profile.precision
        if gpu is None:
            proof = ("it is the engine: built, verified and served", "no need", "no need")
            rows.append((f"`{name}`", "CPU", "ort", precision.weights, *proof))
            continue
        device = f"{gpu.name}, {gpu.compute_capability}"
        kind = f"{precision.weights}, {precision.compute}"
        proof = (_graph(profile), _plan(profile), _typed(profile))
        rows.append((f"`{name}`", device, profile.build.target, kind, *proof))
    head = ("profile", "device", "target", "weights, compute")
    return _table(
        (*head, "graph on ONNX Runtime", "plan by TensorRT for RTX", "typed for TensorRT"), rows
    )


def matrix_table() -> str:
    """Which targets TensorRT for RTX built, or the rule that refuses a target."""
    found: dict[str, dict[str, list[str]]] = {}
    for cell in cells():
        column = found.setdefault(f"`{cell.profile}`", {}).setdefault(cell.column, [])
        rule = cell.rule()
        target = cell.target.removeprefix("trt-")
        column.append(target if rule is None else f"{target}: `{rule}`")
    columns = next(iter(found.values())).keys()
    rows = [(name, *(", ".join(row[column]) for column in columns)) for name, row in found.items()]
    return _table(("profile", *columns), rows)


def refusal_table() -> str:
    """Every wish that is refused, its rule, and what the error says."""
    rows = []
    for refusal in REFUSALS:
        try:
            require_fit(*refusal.wish())
        except ProfileError as error:
            said = str(error).removeprefix(f"profile {refusal.profile}: ").split(" [rule ")[0]
            rows.append((refusal.name, f"`{refusal.profile}`", f"`{refusal.rule}`", said))
    return _table(("wish", "in profile", "rule", "says"), rows)


if __name__ == "__main__":
    print(profile_table(), matrix_table(), refusal_table(), sep="\n")
