"""The benchmarks behind `evloop bench`: the load generator, the C floor, the rivals, the reports.

Rule: nothing outside this package imports it, and nothing here is imported by a server that is measured.
"""
