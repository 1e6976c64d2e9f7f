"""What `doctor` finds out, on canned facts and on this machine."""

from __future__ import annotations

import json

from click.testing import CliRunner

from edgellama.cli.__main__ import main
from edgellama.cli.doctor import NEEDS, cpu_features, judge, memory

ONNX_RUNTIME = {"onnxruntime", "onnxruntime-gpu"}
TENSORRT = {"tensorrt", "tensorrt_rtx_cu13"}
NAMES = {name for needs in NEEDS.values() for name in needs} | ONNX_RUNTIME | TENSORRT


def versions(*absent: str) -> dict[str, str | None]:
    return {name: None if name in absent else "1.0" for name in NAMES}


def test_nothing_is_missing() -> None:
    assert all(verdict.ready for verdict in judge(versions()))


def test_a_missing_package_spoils_the_verbs_that_need_it() -> None:
    ready = {verdict.verbs: verdict.ready for verdict in judge(versions("torch"))}
    assert [verbs for verbs, state in ready.items() if not state] == ["build, export, optimize"]


def test_one_runtime_is_enough_and_none_is_not() -> None:
    assert all(verdict.ready for verdict in judge(versions("onnxruntime-gpu")))
    assert all(verdict.ready for verdict in judge(versions(*ONNX_RUNTIME)))
    without = judge(versions(*ONNX_RUNTIME, *TENSORRT))
    assert all(verdict.missing[-1] in ("onnxruntime", "tensorrt") for verdict in without)


def test_only_tensorrt_finishes_a_bundle() -> None:
    lacking = {v.verbs: v.missing for v in judge(versions(*TENSORRT)) if not v.ready}
    assert lacking == {"finish": ("tensorrt",)}


def test_the_proc_files_are_read() -> None:
    x86 = "processor : 0\nflags\t\t: fpu avx2 fma avx512_vnni\n"
    arm = "processor : 0\nFeatures\t: fp asimd asimddp i8mm\n"
    assert cpu_features(x86) == ["avx2", "fma", "avx512_vnni"]
    assert cpu_features(arm) == ["asimddp", "i8mm"]
    assert cpu_features("") == []
    assert memory("MemTotal: 2048 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB\n") == {
        "total": 2 * 2**20,
        "available": 2**20,
    }


def test_this_machine_is_healthy() -> None:
    done = CliRunner().invoke(main, ["doctor", "--json"])
    document = json.loads(done.stdout)
    assert {"reason"} == set(document["gpu"]) or document["gpu"]["compute_capability"]
    assert document["healthy"] is (done.exit_code == 0)
    if document["packages"]["onnxruntime"]:
        assert "CPUExecutionProvider" in document["providers"]
