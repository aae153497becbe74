"""Reads and writes models in the formats of Hugging Face, one file for each family."""
