"""Calls: SIP and RTP in, actions out, and everything an operator touches.

Layers: ``ivr`` stands on ``audio`` and ``policies``; neither of them knows of the other or of ``ivr``.
"""

import os

# Before numpy is loaded by anybody: its matrix library keeps a thread for each core busy-waiting after every product,
# which measured as much CPU as the recognition of a short utterance itself. Ours are small; one thread is enough.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# onnxruntime from 1.31 sends usage data to its maker as soon as it is imported. Nothing leaves the machine of somebody
# who listens to telephone calls; the switch is read at its import, so it is set here, before anything can load it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
