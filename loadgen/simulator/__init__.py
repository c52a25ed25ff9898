"""A streaming endpoint whose true times are known, in the words of many APIs.

It shares no code with wire/, dialects/ or worker/: a bug on both sides would cancel.
"""
