"""What one run leaves: results, intervals, tables and plots."""
