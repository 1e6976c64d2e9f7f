"""Transport settings of both ends."""

from __future__ import annotations

# Both ways, both ends. A prompt of 128k token ids is about 0.4 MB.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024

_MESSAGES = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)

SERVER_OPTIONS = (
    *_MESSAGES,
    # One engine per device: a second server on the port must fail, not share it.
    ("grpc.so_reuseport", 0),
    # Find dead clients, whose slots would otherwise stay taken.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Let clients ping while they wait in a long prefill; the default floor of 5 minutes answers
    # them with GOAWAY.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)

CLIENT_OPTIONS = (
    *_MESSAGES,
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
)
