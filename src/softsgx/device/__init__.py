"""The device: a design at work on enclaves, files and processes, with no real process behind it.

`Device` is the library's entry: create, add, init, map and enter an enclave from
Python. The supervisor drives the same objects from real processes.
"""

from __future__ import annotations

from softsgx.device.device import Device
from softsgx.device.files import EnclaveFile, ProvisionFile
from softsgx.device.memory import Fault
from softsgx.device.process import Process

__all__ = ["Device", "EnclaveFile", "Fault", "Process", "ProvisionFile"]
