"""The campaign against the readers of foreign files; see `readers.py` for how one joins it."""
