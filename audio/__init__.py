"""Telephone audio in, words and levels out.

Owns: G.711, VAD, endpointing, levels, Whisper, prompt audio. Never: sockets, clocks, files, asyncio, calls.
Every core takes time as an argument (``now_ms``), so a recording and a live call run the very same code.
"""
