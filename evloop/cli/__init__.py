"""The command line, one module a command: ``program`` finds it, ``commands`` and ``options`` are what all share.

Rule: nothing outside of this package may import click or rich, and nothing in it may touch an underscore of evloop.
"""
