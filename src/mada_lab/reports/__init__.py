"""HTML pages about runs and about published logs."""
