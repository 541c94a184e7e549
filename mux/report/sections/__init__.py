"""What the report shows, a module a section: each has `section(runs) -> Section`."""
