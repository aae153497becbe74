"""How a report is made: results.py reads the folders, comparisons.py compares arms, the rest writes it down."""
