"""The messages of Intel's architectural enclave service manager (AESM), for protobuf's library.

One row each: the request's number and name, its fields, the answer's fields; an answer has its
request's number and begins with an errorCode. Numbers and types are those of linux-sgx's
psw/ae/aesm_service/source/core/ipc/messages.proto (SDK 2.26). Rejected: code that protoc makes,
which a newer library may not take.
"""

from __future__ import annotations

from typing import Any

from softsgx.errors import UsageError

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.message import DecodeError
except ImportError:
    raise UsageError("AESM's messages need protobuf: pip install 'softsgx[attest]'") from None

__all__ = ["ROWS", "UNSUPPORTED", "DecodeError", "Request", "Response"]

# Number and name; fields of the request; of the answer, behind errorCode. A field is
# NAME:TYPE:NUMBER, with "!" where it is required. In the order in which aesmd looks for them
# (ProtobufSerializer::inflateRequest).
_TABLE = (
    (3, "GetLaunchToken", "mr_enclave:bytes:1! mr_signer:bytes:2! se_attributes:bytes:3!",
     "token:bytes:2"),
    (1, "InitQuote", "", "targetInfo:bytes:2 gid:bytes:3"),
    (2, "GetQuote",
     ("report:bytes:1! quote_type:uint32:2! spid:bytes:3! nonce:bytes:4 sig_rl:bytes:5"
      " buf_size:uint32:6! qe_report:bool:7"),
     "quote:bytes:2 qe_report:bytes:3"),
    (4, "ReportAttestationError",
     "platform_info:bytes:1! attestation_error_code:uint32:2! update_info_size:uint32:3!",
     "platform_update_info:bytes:2"),
    (18, "CheckUpdateStatus",
     "platform_info:bytes:1 update_info_size:uint32:2! config:uint32:3!",
     "platform_update_info:bytes:2 status:uint32:3"),
    (10, "GetWhiteListSize", "", "white_list_size:uint32:2"),
    (11, "GetWhiteList", "white_list_size:uint32:1", "white_list:bytes:2"),
    (12, "SGXGetExtendedEpidGroupId", "", "x_group_id:uint32:2"),
    (13, "SGXSwitchExtendedEpidGroup", "x_group_id:uint32:1", ""),
    (14, "SGXRegister", "buf:bytes:1! data_type:uint32:2!", ""),
    (15, "InitQuoteEx", "att_key_id:bytes:1 b_pub_key_id:bool:3! buf_size:uint64:4",
     "target_info:bytes:2 pub_key_id_size:uint64:3 pub_key_id:bytes:4"),
    (16, "GetQuoteSizeEx", "att_key_id:bytes:1", "quote_size:uint32:2"),
    (17, "GetQuoteEx",
     "report:bytes:1! att_key_id:bytes:2 qe_report_info:bytes:3 buf_size:uint32:4!",
     "quote:bytes:2 qe_report_info:bytes:3"),
    (19, "SelectAttKeyID", "att_key_id_list:bytes:1", "selected_att_key_id:bytes:2"),
    (21, "GetSupportedAttKeyIDNum", "", "att_key_id_num:uint32:2"),
    (22, "GetSupportedAttKeyIDs", "buf_size:uint32:1!", "att_key_ids:bytes:2"),
)  # fmt: skip

UNSUPPORTED = "Unsupported"
ROWS = tuple((number, name) for number, name, _, _ in _TABLE)
"""Number and name of each request, in the order in which they are looked for.

The fields of `Request` and `Response` go by these names; `UNSUPPORTED` is an answer alone.
"""

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "bytes": _Field.TYPE_BYTES,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
    "bool": _Field.TYPE_BOOL,
}
_PACKAGE = "softsgx.aesm"  # not aesm.message: a program may have that in the same pool


def _build() -> tuple[Any, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="softsgx/aesm.proto", package=_PACKAGE, syntax="proto2"
    )
    request, response = (
        file.message_type.add(name="Request"),
        file.message_type.add(name="Response"),
    )
    for number, name, asked, answered in _TABLE:
        _member(request, number, name, asked)
        _member(response, number, name, f"errorCode:uint32:1! {answered}")
    _member(response, 20, UNSUPPORTED, "errorCode:uint32:1!")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = [
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in ("Request", "Response")
    ]
    return made[0], made[1]


def _member(of: Any, number: int, name: str, fields: str) -> None:
    """A message inside another, and the field that holds it. Unknown fields (timeout) are kept."""
    inner = of.nested_type.add(name=f"{name}Message")
    for text in fields.split():
        label, kind, where = text.rstrip("!").split(":")
        required = text.endswith("!")
        inner.field.add(
            name=label,
            number=int(where),
            type=_TYPES[kind],
            label=_Field.LABEL_REQUIRED if required else _Field.LABEL_OPTIONAL,
        )
    of.field.add(
        name=name,
        number=number,
        type=_Field.TYPE_MESSAGE,
        type_name=f".{_PACKAGE}.{of.name}.{name}Message",
        label=_Field.LABEL_OPTIONAL,
    )


Request, Response = _build()
