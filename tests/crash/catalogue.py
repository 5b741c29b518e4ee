"""Every graph that is killed, by name."""

from __future__ import annotations

from .chat_shapes import CHAT
from .more_shapes import MORE
from .shapes import BASIC

SHAPES = {**BASIC, **MORE, **CHAT}
