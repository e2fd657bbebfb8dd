"""Calls: SIP and RTP in, actions out, and everything an operator touches.

Layers: ``ivr`` stands on ``audio`` and ``policies``; neither of them knows of the other or of ``ivr``.
"""

__version__ = "0.1.0"
