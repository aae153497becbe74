"""Recipes: one file, one recipe; each has get_config()."""
