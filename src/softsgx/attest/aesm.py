"""What AESM answers to a request: bytes in, bytes out.

Checks and codes are those of linux-sgx's aesm_service (quote_ex_service_bundle.cpp, and
ecdsa_quote_service_bundle.cpp for what DCAP says), as if the ECDSA and quote_ex plug-ins were
installed and those for EPID and launch were not: their requests are AESM_SERVICE_UNAVAILABLE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from softsgx.attest.messages import ROWS, UNSUPPORTED, DecodeError, Request, Response
from softsgx.attest.platform import ATT_KEY_IDS
from softsgx.attest.quoting import InvalidReportError, Quoting
from softsgx.sdm.quote import ATT_KEY_ID_EXT, ATT_KEY_ID_LIST_HEADER, QE_REPORT_INFO
from softsgx.sdm.structs import REPORT

__all__ = ["MAX_QUOTE_BUFFER", "Aesm"]

# linux-sgx, psw/ae/inc/internal/aesm_error.h.
_SUCCESS, _UNEXPECTED, _PARAMETER = 0, 1, 3
_UNAVAILABLE, _UNSUPPORTED_KEY, _INVALID_REPORT = 30, 38, 47

_HASH_SIZE = 32
_MAX_KEY_IDS = 10  # SGX_MAX_ATT_KEY_IDS
MAX_QUOTE_BUFFER = 1 << 20
"""A longer buffer for a quote, which would be answered in full, is a parameter error."""


class _Refused(Exception):
    def __init__(self, code: int) -> None:
        self.code = code


class Aesm:
    """The service for one quoting identity."""

    def __init__(self, quoting: Quoting) -> None:
        self.quoting = quoting
        self._handlers: dict[str, Callable[[Any, Any], None]] = {
            "InitQuoteEx": self._init_quote,
            "GetQuoteSizeEx": self._quote_size,
            "GetQuoteEx": self._quote,
            "SelectAttKeyID": self._select,
            "GetSupportedAttKeyIDNum": self._key_ids_num,
            "GetSupportedAttKeyIDs": self._key_ids,
        }

    def answer(self, raw: bytes) -> bytes | None:
        """The answer to a request, without lengths; None for what is no message: hang up."""
        request = Request()
        try:
            request.MergeFromString(raw)
        except DecodeError:
            return None
        response = Response()
        name = next((name for _, name in ROWS if request.HasField(name)), None)
        if name is None:
            getattr(response, UNSUPPORTED).errorCode = _UNEXPECTED
            return bytes(response.SerializeToString())
        asked, answered = getattr(request, name), getattr(response, name)
        answered.errorCode = _SUCCESS
        handler = self._handlers.get(name)
        try:
            if not asked.IsInitialized():
                raise _Refused(_UNEXPECTED)
            if handler is None:
                raise _Refused(_UNAVAILABLE)
            handler(asked, answered)
        except _Refused as refused:
            answered.Clear()
            answered.errorCode = refused.code
        return bytes(response.SerializeToString())

    @staticmethod
    def _key(asked: Any) -> None:
        """The attestation key that is asked for has to be ours."""
        key_id = asked.att_key_id
        if len(key_id) < ATT_KEY_ID_EXT.size:
            raise _Refused(_PARAMETER)
        if key_id[: len(ATT_KEY_IDS[0])] not in ATT_KEY_IDS:
            raise _Refused(_UNSUPPORTED_KEY)

    def _init_quote(self, asked: Any, answered: Any) -> None:
        self._key(asked)
        if asked.b_pub_key_id:
            if asked.buf_size < _HASH_SIZE:
                raise _Refused(_PARAMETER)
            answered.pub_key_id = self.quoting.key_identity
        answered.target_info = self.quoting.target_info
        answered.pub_key_id_size = _HASH_SIZE

    def _quote_size(self, asked: Any, answered: Any) -> None:
        self._key(asked)
        answered.quote_size = self.quoting.size

    def _quote(self, asked: Any, answered: Any) -> None:
        self._key(asked)
        info = asked.qe_report_info
        if (
            len(asked.report) != REPORT.size
            or len(info) not in (0, QE_REPORT_INFO.size)
            or not self.quoting.size <= asked.buf_size <= MAX_QUOTE_BUFFER
        ):
            raise _Refused(_PARAMETER)
        try:
            quote = self.quoting.quote(asked.report)
        except InvalidReportError:
            raise _Refused(_INVALID_REPORT) from None
        answered.quote = quote.ljust(asked.buf_size, b"\0")
        if info:
            record = QE_REPORT_INFO.unpack(info)
            record.qe_report = self.quoting.report(quote, record.nonce, record.target_info)
            answered.qe_report_info = QE_REPORT_INFO.pack_record(record)

    def _select(self, asked: Any, answered: Any) -> None:
        """The first of the list that there is; any, where there is no list."""
        if not asked.HasField("att_key_id_list"):
            answered.selected_att_key_id = self.quoting.key_ids[0]
            return
        given, head = asked.att_key_id_list, ATT_KEY_ID_LIST_HEADER
        if len(given) < head.size + ATT_KEY_ID_EXT.size:
            raise _Refused(_PARAMETER)
        header = head.unpack(given)
        size = header.num_att_ids * ATT_KEY_ID_EXT.size + head.size
        if header.id or header.version or header.num_att_ids > _MAX_KEY_IDS or size != len(given):
            raise _Refused(_PARAMETER)
        for at in range(head.size, size, ATT_KEY_ID_EXT.size):
            key_id = given[at : at + ATT_KEY_ID_EXT.size]
            if key_id[: len(ATT_KEY_IDS[0])] in ATT_KEY_IDS:
                answered.selected_att_key_id = key_id
                return
        raise _Refused(_UNSUPPORTED_KEY)

    def _key_ids_num(self, asked: Any, answered: Any) -> None:  # noqa: ARG002
        answered.att_key_id_num = len(self.quoting.key_ids)

    def _key_ids(self, asked: Any, answered: Any) -> None:
        ids = b"".join(self.quoting.key_ids)
        if asked.buf_size != len(ids):
            raise _Refused(_PARAMETER)
        answered.att_key_ids = ids
