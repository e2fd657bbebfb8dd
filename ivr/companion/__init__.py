"""``firmline hotkey``: global keys on the agent's desktop for the agent's own call."""
