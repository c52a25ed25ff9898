"""A multiprocess, high-precision load generator for streaming LLM endpoints."""

__version__ = "0.1.0"
