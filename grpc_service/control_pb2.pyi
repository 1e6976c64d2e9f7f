from edgellama.grpc_service import generation_pb2 as _generation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetModelInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelInfoResponse(_message.Message):
    __slots__ = ("model", "fingerprint", "profile", "target", "precision", "parameters", "vocab_size", "max_position_embeddings", "bos_id", "stop_ids", "default_sampling", "has_chat_template", "limits")
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
    def __init__(self, model: _Optional[str] = ..., fingerprint: _Optional[str] = ..., profile: _Optional[str] = ..., target: _Optional[str] = ..., precision: _Optional[_Union[Precision, _Mapping]] = ..., parameters: _Optional[int] = ..., vocab_size: _Optional[int] = ..., max_position_embeddings: _Optional[int] = ..., bos_id: _Optional[int] = ..., stop_ids: _Optional[_Iterable[int]] = ..., default_sampling: _Optional[_Union[_generation_pb2.Sampling, _Mapping]] = ..., has_chat_template: bool = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("capacity", "slots", "max_queue", "max_stop_strings", "max_stop_string_chars", "max_top_logprobs", "max_request_id_chars", "max_message_bytes")
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_FIELD_NUMBER: _ClassVar[int]
    MAX_STOP_STRINGS_FIELD_NUMBER: _ClassVar[int]
    MAX_STOP_STRING_CHARS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_ID_CHARS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    capacity: int
    slots: int
    max_queue: int
    max_stop_strings: int
    max_stop_string_chars: int
    max_top_logprobs: int
    max_request_id_chars: int
    max_message_bytes: int
    def __init__(self, capacity: _Optional[int] = ..., slots: _Optional[int] = ..., max_queue: _Optional[int] = ..., max_stop_strings: _Optional[int] = ..., max_stop_string_chars: _Optional[int] = ..., max_top_logprobs: _Optional[int] = ..., max_request_id_chars: _Optional[int] = ..., max_message_bytes: _Optional[int] = ...) -> None: ...
