"""AESM's answers: the codes of linux-sgx's service for what is right, wrong, and not supported."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softsgx.attest.aesm import MAX_QUOTE_BUFFER, Aesm
from softsgx.attest.messages import ROWS, UNSUPPORTED, Request, Response
from softsgx.attest.platform import ATT_KEY_IDS, QE
from softsgx.sdm.quote import (
    ATT_KEY_ID,
    ATT_KEY_ID_EXT,
    ATT_KEY_ID_LIST_HEADER,
    QE_REPORT_INFO,
)
from softsgx.sdm.structs import REPORT, TARGETINFO
from tests.attest.quoted import device, ereport, verify

KEY = ATT_KEY_ID_EXT.pack(base=ATT_KEY_IDS[0])
INTELS = ATT_KEY_ID_EXT.pack(base=ATT_KEY_IDS[1])
OTHER = ATT_KEY_ID_EXT.pack(base=ATT_KEY_ID.pack(mrsigner_length=32, algorithm_id=3))
SUCCESS, UNEXPECTED, PARAMETER, UNAVAILABLE, NO_SUCH_KEY, INVALID_REPORT = 0, 1, 3, 30, 38, 47


def ask(name: str, **fields: Any) -> Any:
    request, response = Request(), Response()
    member = getattr(request, name)
    member.SetInParent()
    for field, value in fields.items():
        setattr(member, field, value)
    answer = Aesm(device().quoting).answer(request.SerializePartialToString())
    assert answer is not None
    response.ParseFromString(answer)
    assert [field.name for field, _ in response.ListFields()] == [name]
    return getattr(response, name)


def size() -> int:
    return int(ask("GetQuoteSizeEx", att_key_id=KEY).quote_size)


def listed(*keys: bytes, **header: int) -> bytes:
    return ATT_KEY_ID_LIST_HEADER.pack(**({"num_att_ids": len(keys)} | header)) + b"".join(keys)


@pytest.mark.parametrize("key", [KEY, INTELS])
def test_the_whole_way(key: bytes) -> None:
    answer = ask("InitQuoteEx", att_key_id=key, b_pub_key_id=True, buf_size=32)
    assert (answer.errorCode, answer.pub_key_id_size, len(answer.pub_key_id)) == (SUCCESS, 32, 32)
    assert answer.target_info == device().qe_target_info
    info = QE_REPORT_INFO.pack(nonce=b"n" * 16, target_info=device().qe_target_info)
    answer = ask(
        "GetQuoteEx", report=ereport(device()), att_key_id=key, qe_report_info=info, buf_size=size()
    )
    assert answer.errorCode == SUCCESS
    assert verify(answer.quote) == "UpToDate"
    own = QE_REPORT_INFO.unpack(answer.qe_report_info)
    assert own.nonce == b"n" * 16
    report = REPORT.unpack(own.qe_report)
    assert report.reportdata[:32] == hashlib.sha256(own.nonce + answer.quote).digest()
    assert report.mrenclave == QE.mrenclave


def test_a_larger_buffer_is_filled_with_zeros() -> None:
    """As the service does: clients read the quote's own length (Gramine says so)."""
    answer = ask("GetQuoteEx", report=ereport(device()), att_key_id=KEY, buf_size=8192)
    assert len(answer.quote) == 8192
    assert answer.quote[size() :] == bytes(8192 - size())
    assert verify(answer.quote) == "UpToDate"


def test_the_size_alone_needs_no_key_identity() -> None:
    answer = ask("InitQuoteEx", att_key_id=KEY, b_pub_key_id=False)
    assert (answer.errorCode, answer.pub_key_id_size) == (SUCCESS, 32)
    assert not answer.HasField("pub_key_id")


@pytest.mark.parametrize("at", [0, 20, 64, 100, 400, 431])
def test_a_changed_report_is_no_quote(at: int) -> None:
    report = bytearray(ereport(device()))
    report[at] ^= 1
    answer = ask("GetQuoteEx", report=bytes(report), att_key_id=KEY, buf_size=size())
    assert answer.errorCode == INVALID_REPORT
    assert not answer.HasField("quote")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"report": bytes(431)}, PARAMETER),
        ({"report": b""}, PARAMETER),
        ({"att_key_id": KEY[:255]}, PARAMETER),
        ({"att_key_id": OTHER}, NO_SUCH_KEY),
        ({"qe_report_info": bytes(959)}, PARAMETER),
        ({"buf_size": 0}, PARAMETER),
        ({"buf_size": 4000}, PARAMETER),
        ({"buf_size": MAX_QUOTE_BUFFER + 1}, PARAMETER),
        ({"buf_size": 0xFFFFFFFF}, PARAMETER),
    ],
)
def test_parameters_of_a_quote(fields: dict[str, Any], code: int) -> None:
    right = {"report": ereport(device()), "att_key_id": KEY, "buf_size": 8192}
    answer = ask("GetQuoteEx", **(right | fields))
    assert answer.errorCode == code
    assert not answer.HasField("quote")


def test_parameters_of_the_others() -> None:
    assert ask("InitQuoteEx", b_pub_key_id=True).errorCode == PARAMETER
    short = ask("InitQuoteEx", att_key_id=KEY, b_pub_key_id=True, buf_size=31)
    assert short.errorCode == PARAMETER
    assert ask("InitQuoteEx", att_key_id=OTHER, b_pub_key_id=False).errorCode == NO_SUCH_KEY
    assert ask("GetQuoteSizeEx").errorCode == PARAMETER
    assert ask("GetQuoteSizeEx", att_key_id=OTHER).errorCode == NO_SUCH_KEY
    # What has to be there is not.
    assert ask("InitQuoteEx", att_key_id=KEY).errorCode == UNEXPECTED
    assert ask("GetQuoteEx", att_key_id=KEY).errorCode == UNEXPECTED
    assert ask("GetSupportedAttKeyIDs").errorCode == UNEXPECTED


def test_which_keys_there_are() -> None:
    assert ask("GetSupportedAttKeyIDNum").att_key_id_num == 1
    answer = ask("GetSupportedAttKeyIDs", buf_size=256)
    assert (answer.errorCode, answer.att_key_ids) == (SUCCESS, KEY)
    for wrong in (0, 255, 257, 512, 0xFFFFFFFF):
        assert ask("GetSupportedAttKeyIDs", buf_size=wrong).errorCode == PARAMETER


def test_a_key_is_selected_from_a_list() -> None:
    assert ask("SelectAttKeyID").selected_att_key_id == KEY
    for keys, selected in (((KEY,), KEY), ((OTHER, INTELS), INTELS), ((INTELS, KEY), INTELS)):
        answer = ask("SelectAttKeyID", att_key_id_list=listed(*keys))
        assert (answer.errorCode, answer.selected_att_key_id) == (SUCCESS, selected)
    assert ask("SelectAttKeyID", att_key_id_list=listed(OTHER)).errorCode == NO_SUCH_KEY
    for wrong in (
        b"", listed(), listed(KEY)[:-1], listed(KEY) + b"x", listed(KEY, version=1),
        listed(KEY, id=1), listed(KEY, num_att_ids=2), listed(*[KEY] * 11),
        listed(KEY, num_att_ids=0xFFFFFFFF),
    ):  # fmt: skip
        assert ask("SelectAttKeyID", att_key_id_list=wrong).errorCode == PARAMETER


SUPPORTED = {
    "InitQuoteEx", "GetQuoteSizeEx", "GetQuoteEx", "SelectAttKeyID", "GetSupportedAttKeyIDNum",
    "GetSupportedAttKeyIDs",
}  # fmt: skip
NEEDED: dict[str, dict[str, Any]] = {
    "GetLaunchToken": {"mr_enclave": b"", "mr_signer": b"", "se_attributes": b""},
    "GetQuote": {"report": b"", "quote_type": 0, "spid": b"", "buf_size": 1},
    "ReportAttestationError": {
        "platform_info": b"", "attestation_error_code": 0, "update_info_size": 0,
    },
    "CheckUpdateStatus": {"update_info_size": 0, "config": 0},
    "SGXRegister": {"buf": b"", "data_type": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", [name for _, name in ROWS if name not in SUPPORTED])
def test_epid_and_launch_are_not_available(name: str) -> None:
    answer = ask(name, **NEEDED.get(name, {}))
    assert [field.name for field, _ in answer.ListFields()] == ["errorCode"]
    assert answer.errorCode == UNAVAILABLE


def test_numbers_are_those_of_the_service() -> None:
    """linux-sgx, messages.proto, written once more: request and answer have one number."""
    assert dict(ROWS) == {
        1: "InitQuote", 2: "GetQuote", 3: "GetLaunchToken", 4: "ReportAttestationError",
        10: "GetWhiteListSize", 11: "GetWhiteList", 12: "SGXGetExtendedEpidGroupId",
        13: "SGXSwitchExtendedEpidGroup", 14: "SGXRegister", 15: "InitQuoteEx",
        16: "GetQuoteSizeEx", 17: "GetQuoteEx", 18: "CheckUpdateStatus", 19: "SelectAttKeyID",
        21: "GetSupportedAttKeyIDNum", 22: "GetSupportedAttKeyIDs",
    }  # fmt: skip
    for number, name in ROWS:
        for message in (Request, Response):
            assert message.DESCRIPTOR.fields_by_name[name].number == number
        code = Response.DESCRIPTOR.fields_by_name[name].message_type.fields_by_name["errorCode"]
        assert code.number == 1
    assert Response.DESCRIPTOR.fields_by_name[UNSUPPORTED].number == 20


def test_no_request_and_nonsense() -> None:
    aesm = Aesm(device().quoting)
    for empty in (b"", b"\x28\x01", b"\xfa\x07\x00"):  # nothing; fields that nobody knows
        response = Response()
        response.ParseFromString(aesm.answer(empty))
        assert getattr(response, UNSUPPORTED).errorCode == UNEXPECTED
    for nonsense in (b"\xff", b"\x7a\x05x", b"\x00", b"\x7a" + b"\xff" * 9 + b"\x01"):
        assert aesm.answer(nonsense) is None


@given(st.binary(max_size=64))
def test_any_bytes_are_answered_or_refused(raw: bytes) -> None:
    answer = Aesm(device().quoting).answer(raw)
    assert answer is None or Response.FromString(answer).IsInitialized()


def test_a_target_info_of_any_kind_gets_a_report() -> None:
    """EREPORT looks at no reserved byte of TARGETINFO."""
    info = QE_REPORT_INFO.pack(target_info=b"\xff" * TARGETINFO.size)
    answer = ask(
        "GetQuoteEx", report=ereport(device()), att_key_id=KEY, qe_report_info=info, buf_size=8192
    )
    assert answer.errorCode == SUCCESS
