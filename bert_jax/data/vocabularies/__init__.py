"""Maps text to token ids and back by vocabularies that are read, trained and extended."""
