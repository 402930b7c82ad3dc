"""CSV files as recorded series."""
