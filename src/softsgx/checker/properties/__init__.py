"""What must hold, each property in a module of its own that registers itself.

A property is a condition on a state of the world (`softsgx.checker.world.world`), ghosts
included; the world says what a process runs and what counts as authority.
"""

from __future__ import annotations

from softsgx.checker.properties.base import PROPERTIES, Property, load_all

__all__ = ["PROPERTIES", "Property", "load_all"]

load_all()
