"""Serve the echo engine in a process of its own; exit code 0 when all calls were completed."""

from __future__ import annotations

import argparse
import sys

from serving_engine import EchoEngine

from edgellama.grpc_service.serve import serve

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--grace", type=float, required=True)
    parser.add_argument("--step", type=float, default=0.002)
    arguments = parser.parse_args()
    engine = EchoEngine(step_seconds=arguments.step)
    completed = serve(engine, port=0, grace_seconds=arguments.grace)
    engine.close()
    sys.exit(0 if completed else 1)
