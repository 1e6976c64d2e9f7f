"""`edgellama bench`: how fast an engine is, alone, under load and beside others."""

from __future__ import annotations

import click

from edgellama.cli.bench_all import bench_all
from edgellama.cli.bench_batching import batching
from edgellama.cli.bench_check import check
from edgellama.cli.bench_count import count
from edgellama.cli.bench_export import export
from edgellama.cli.bench_latency import latency
from edgellama.cli.bench_peers import peers
from edgellama.cli.bench_report import report
from edgellama.cli.bench_serve import serve


@click.group("bench")
def command() -> None:
    """Measure an engine, a server, or the export."""


for verb in (bench_all, batching, check, count, export, latency, peers, report, serve):
    command.add_command(verb)
