"""What was said and done -> what the boundary policy does about it.

Owns: packs, words, direction, the ladder. Never: sockets, clocks, files, asyncio, audio.
"""
