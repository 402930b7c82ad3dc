"""The results of one run: figures, intervals, tables and plots."""
