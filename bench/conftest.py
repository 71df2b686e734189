"""How the pytest-benchmark tables look: four columns, the fastest rival of each group first."""


def pytest_configure(config):
    """Choose the columns; mean and deviation say little where one interrupt is ten times the rest."""
    config.option.benchmark_columns = ["min", "median", "max", "rounds"]
    config.option.benchmark_sort = "min"
