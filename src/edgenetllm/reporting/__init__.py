"""Results, tables, plots and experiment loggers."""
