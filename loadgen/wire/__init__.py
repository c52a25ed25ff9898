"""Bytes -> messages -> events. No I/O, no clock, no JSON: what comes in is bytes, what goes out is bytes."""
