"""Linux numbers and layouts, as a program sees them; no rule of the SDM.

Every number here is compared with compiled C headers in tests/uapi/test_uapi_parity.py.
"""
