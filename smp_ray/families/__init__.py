"""Feature families: what one is (`base`), which there are (`registry`), their fingerprints (`keys`), a file each."""
