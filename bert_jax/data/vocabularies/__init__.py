"""Vocabularies: text to token ids and back, read, trained and extended."""
