"""The report: rows of a results file to one HTML page, or to a table on a terminal."""
