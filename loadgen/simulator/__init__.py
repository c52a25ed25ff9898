"""An OpenAI-compatible streaming endpoint whose true times are known.

It shares no code with wire/, dialects/ or worker/: a bug on both sides would cancel.
"""
