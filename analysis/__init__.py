"""Reads captures and judges them: capture files -> metrics -> histograms -> verdict -> summary, tables, charts.

Never makes load, never prints; knows `loadgen` through one module, `loadgen.schema`.
"""
