"""SIP engines behind one interface; see ``base``."""
