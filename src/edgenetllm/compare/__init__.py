"""Many runs: groups, the comparison page, the retention study and tables over seeds."""
