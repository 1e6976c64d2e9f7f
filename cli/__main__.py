"""Entry point of the `edgellama` command."""

from __future__ import annotations

import os

import click

from edgellama.cli.lazy import LazyGroup

# What goes wrong comes as an exception and is told in one line; the libraries would tell it once
# more, on standard error. Both read this when they are imported; the user's own setting stays.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

VERBS = {
    "profiles": "edgellama.cli.profiles",
    "plan": "edgellama.cli.plan",
    "build": "edgellama.cli.build",
    "export": "edgellama.cli.export",
    "calibrate": "edgellama.cli.calibrate",
    "optimize": "edgellama.cli.optimize",
    "finish": "edgellama.cli.finish",
    "evaluate": "edgellama.cli.evaluate",
    "inspect": "edgellama.cli.inspect",
    "generate": "edgellama.cli.generate",
    "chat": "edgellama.cli.chat",
    "serve": "edgellama.cli.serve",
    "client": "edgellama.cli.client",
    "trace": "edgellama.cli.trace",
    "bench": "edgellama.cli.bench",
    "verify-gpu": "edgellama.cli.verify_gpu",
    "doctor": "edgellama.cli.doctor",
}


@click.group(cls=LazyGroup, verbs=VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgellama", prog_name="edgellama")
def main() -> None:
    """Compile Llama 3 for one device and serve it over gRPC."""


if __name__ == "__main__":
    main(prog_name="edgellama")
