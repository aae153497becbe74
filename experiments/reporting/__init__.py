"""Makes reports: `results` reads the folders, `comparisons` compares arms, the other modules write the report."""
