"""The words of the page and what they mean."""

from __future__ import annotations

TERMS = (
    ("TTFT", "time to first token: the first message with tokens minus the send; under load minus "
     "the moment at which the request was due"),
    ("ITL", "gap between tokens; a message of k tokens after a gap g is k gaps of g/k"),
    ("ICL", "gap between messages, however many tokens they carry"),
    ("TPOT", "time after the first token divided by the tokens after it, per request"),
    ("E2EL", "end of the call minus the send"),
    ("p50, p90, p95, p99", "percentiles over all requests or gaps of a cell; n is their number"),
    ("median, spread, n", "the middle of n repeats, and (greatest - least) / median"),
    ("rows", "sequences that are computed together in one step"),
    ("tokens/s", "tokens of all rows a second while every one of them decodes; per user it is one "
     "row's"),
    ("ceilings", "bytes/s that the machine reads and operations/s of its matrix product, measured "
     "in the same run on the same threads or device"),
    ("share of the read ceiling", "bytes that a step must read (every weight once, and the cache "
     "at that context) a second, over the measured bandwidth"),
    ("share of the matrix ceiling", "operations that a prefill must do a second, over the measured "
     "matrix product of the precision that the engine multiplies in"),
    ("goodput", "requests a second that completed and met every bound of the SLO"),
    ("knee", "the highest offered rate at which at least 95 % of the requests met the SLO"),
    ("saturation", "requests a second that the server completes when it always has enough"),
    ("closed, open", "closed: a fixed number of streams, each sends when its last request ended; "
     "open: requests are due at random times, whatever the server does"),
    ("gRPC tax", "what a token and a first token cost over gRPC beyond the same engine in one "
     "process; the echo engine computes nothing"),
    ("ratio to ours", "another system's tokens/s divided by this engine's of the same round; above "
     "1 it is faster"),
    ("KL", "Kullback-Leibler divergence, in nats, of the engine's next-token distribution from "
     "the float model's"),
)  # fmt: skip
