# mypy: ignore-errors
"""Run by ``firmline bench ears --peers`` in an environment of its own, never imported by Firmline.

Plays one recording (s16 mono WAV at 16 kHz) to WhisperLive's faster-whisper backend as its client would: chunks of 4096
samples, in real time. Its server hands chunks to that very class and does nothing else with them for this backend, so
the WebSocket between is left out. Prints one JSON object: what was sent to the client when (ms of the recording), CPU.

torch is asked one thing by this backend, whether there is a GPU; where it is not installed, a stand-in answers no.
"""

import importlib.util
import json
import resource
import sys
import threading
import time
import types
import wave

CHUNK_SAMPLES = 4096
RATE_HZ = 16000
FAREWELL_S = 12.0


def without_torch():
    if importlib.util.find_spec("torch") is None:
        stand_in = types.ModuleType("torch")
        stand_in.cuda = types.SimpleNamespace(is_available=lambda: False)
        sys.modules["torch"] = stand_in


def cpu_s():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Client:
    """Takes what the server would send over its WebSocket."""

    def __init__(self):
        self.began_s = None
        self.messages = []
        self.ready = threading.Event()

    def send(self, text):
        message = json.loads(text)
        if message.get("message") == "SERVER_READY":
            self.ready.set()
        if "segments" in message and self.began_s is not None:
            self.messages.append([round((time.monotonic() - self.began_s) * 1000), message["segments"]])

    def close(self):
        pass


def main(model, recording):
    without_torch()
    import numpy as np
    from whisper_live.backend.faster_whisper_backend import ServeClientFasterWhisper

    with wave.open(recording) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
    client = Client()
    serve = ServeClientFasterWhisper(client, language="en", client_uid="bench", model=model, use_vad=True)
    if not client.ready.wait(60):
        raise SystemExit("WhisperLive did not become ready")
    before_s, client.began_s = cpu_s(), time.monotonic()
    for at in range(0, len(pcm), CHUNK_SAMPLES):
        due_s = client.began_s + min(len(pcm), at + CHUNK_SAMPLES) / RATE_HZ
        time.sleep(max(0.0, due_s - time.monotonic()))
        serve.add_frames(pcm[at : at + CHUNK_SAMPLES])
    played_cpu_s = cpu_s() - before_s
    time.sleep(FAREWELL_S)
    serve.cleanup()
    serve.trans_thread.join(30)
    json.dump({"messages": client.messages, "cpu_s": played_cpu_s, "audio_s": len(pcm) / RATE_HZ}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
