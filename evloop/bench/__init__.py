"""The benchmarks behind `evloop bench`: the load generator, the C floor, the rivals, the reports.

Rule: nothing outside this package but the command line imports it, and no server that is measured imports what is here.
"""
