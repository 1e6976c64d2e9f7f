import datetime

from edgellama.grpc_service import generation_pb2 as _generation_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Stall(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STALL_UNSPECIFIED: _ClassVar[Stall]
    STALL_NO_SLOT: _ClassVar[Stall]
    STALL_OTHER_CHUNK: _ClassVar[Stall]
    STALL_STEP_TOKENS: _ClassVar[Stall]
    STALL_CHUNK_SLOWDOWN: _ClassVar[Stall]
STALL_UNSPECIFIED: Stall
STALL_NO_SLOT: Stall
STALL_OTHER_CHUNK: Stall
STALL_STEP_TOKENS: Stall
STALL_CHUNK_SLOWDOWN: Stall

class GetModelInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelInfoResponse(_message.Message):
    __slots__ = ("model", "fingerprint", "profile", "target", "precision", "parameters", "vocab_size", "max_position_embeddings", "bos_id", "stop_ids", "default_sampling", "has_chat_template", "limits", "chat_options")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_POSITION_EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    BOS_ID_FIELD_NUMBER: _ClassVar[int]
    STOP_IDS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_SAMPLING_FIELD_NUMBER: _ClassVar[int]
    HAS_CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    CHAT_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    fingerprint: str
    profile: str
    target: str
    precision: Precision
    parameters: int
    vocab_size: int
    max_position_embeddings: int
    bos_id: int
    stop_ids: _containers.RepeatedScalarFieldContainer[int]
    default_sampling: _generation_pb2.Sampling
    has_chat_template: bool
    limits: Limits
    chat_options: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[str] = ..., fingerprint: _Optional[str] = ..., profile: _Optional[str] = ..., target: _Optional[str] = ..., precision: _Optional[_Union[Precision, _Mapping]] = ..., parameters: _Optional[int] = ..., vocab_size: _Optional[int] = ..., max_position_embeddings: _Optional[int] = ..., bos_id: _Optional[int] = ..., stop_ids: _Optional[_Iterable[int]] = ..., default_sampling: _Optional[_Union[_generation_pb2.Sampling, _Mapping]] = ..., has_chat_template: bool = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., chat_options: _Optional[_Iterable[str]] = ...) -> None: ...

class StreamStepsRequest(_message.Message):
    __slots__ = ("last",)
    LAST_FIELD_NUMBER: _ClassVar[int]
    last: int
    def __init__(self, last: _Optional[int] = ...) -> None: ...

class StreamStepsResponse(_message.Message):
    __slots__ = ("index", "began", "parts", "rows", "chunk", "admitted", "cancelled", "finished", "running", "waiting", "copies", "stalls", "drafted", "accepted", "saves", "restores")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    BEGAN_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    ADMITTED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    STALLS_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    SAVES_FIELD_NUMBER: _ClassVar[int]
    RESTORES_FIELD_NUMBER: _ClassVar[int]
    index: int
    began: _duration_pb2.Duration
    parts: StepParts
    rows: _containers.RepeatedCompositeFieldContainer[StepRow]
    chunk: StepChunk
    admitted: int
    cancelled: int
    finished: int
    running: int
    waiting: int
    copies: int
    stalls: _containers.RepeatedScalarFieldContainer[Stall]
    drafted: int
    accepted: int
    saves: int
    restores: int
    def __init__(self, index: _Optional[int] = ..., began: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., parts: _Optional[_Union[StepParts, _Mapping]] = ..., rows: _Optional[_Iterable[_Union[StepRow, _Mapping]]] = ..., chunk: _Optional[_Union[StepChunk, _Mapping]] = ..., admitted: _Optional[int] = ..., cancelled: _Optional[int] = ..., finished: _Optional[int] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., copies: _Optional[int] = ..., stalls: _Optional[_Iterable[_Union[Stall, str]]] = ..., drafted: _Optional[int] = ..., accepted: _Optional[int] = ..., saves: _Optional[int] = ..., restores: _Optional[int] = ...) -> None: ...

class StepParts(_message.Message):
    __slots__ = ("schedule", "backend", "sample", "detokenise", "update", "deliver")
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    DETOKENISE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    DELIVER_FIELD_NUMBER: _ClassVar[int]
    schedule: _duration_pb2.Duration
    backend: _duration_pb2.Duration
    sample: _duration_pb2.Duration
    detokenise: _duration_pb2.Duration
    update: _duration_pb2.Duration
    deliver: _duration_pb2.Duration
    def __init__(self, schedule: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., backend: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., sample: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., detokenise: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., update: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., deliver: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class StepRow(_message.Message):
    __slots__ = ("slot", "request_id")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    slot: int
    request_id: str
    def __init__(self, slot: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class StepChunk(_message.Message):
    __slots__ = ("request_id", "slot", "start", "tokens")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    slot: int
    start: int
    tokens: int
    def __init__(self, request_id: _Optional[str] = ..., slot: _Optional[int] = ..., start: _Optional[int] = ..., tokens: _Optional[int] = ...) -> None: ...

class Precision(_message.Message):
    __slots__ = ("weights", "embedding", "kv")
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    KV_FIELD_NUMBER: _ClassVar[int]
    weights: str
    embedding: str
    kv: str
    def __init__(self, weights: _Optional[str] = ..., embedding: _Optional[str] = ..., kv: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("capacity", "slots", "max_queue", "max_stop_strings", "max_stop_string_chars", "max_top_logprobs", "max_request_id_chars", "max_message_bytes", "max_outputs", "max_bad_words", "max_bad_word_chars", "max_bad_word_tokens", "max_tools", "max_tools_chars")
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_FIELD_NUMBER: _ClassVar[int]
    MAX_STOP_STRINGS_FIELD_NUMBER: _ClassVar[int]
    MAX_STOP_STRING_CHARS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_ID_CHARS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    MAX_BAD_WORDS_FIELD_NUMBER: _ClassVar[int]
    MAX_BAD_WORD_CHARS_FIELD_NUMBER: _ClassVar[int]
    MAX_BAD_WORD_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOOLS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOOLS_CHARS_FIELD_NUMBER: _ClassVar[int]
    capacity: int
    slots: int
    max_queue: int
    max_stop_strings: int
    max_stop_string_chars: int
    max_top_logprobs: int
    max_request_id_chars: int
    max_message_bytes: int
    max_outputs: int
    max_bad_words: int
    max_bad_word_chars: int
    max_bad_word_tokens: int
    max_tools: int
    max_tools_chars: int
    def __init__(self, capacity: _Optional[int] = ..., slots: _Optional[int] = ..., max_queue: _Optional[int] = ..., max_stop_strings: _Optional[int] = ..., max_stop_string_chars: _Optional[int] = ..., max_top_logprobs: _Optional[int] = ..., max_request_id_chars: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_outputs: _Optional[int] = ..., max_bad_words: _Optional[int] = ..., max_bad_word_chars: _Optional[int] = ..., max_bad_word_tokens: _Optional[int] = ..., max_tools: _Optional[int] = ..., max_tools_chars: _Optional[int] = ...) -> None: ...
