"""Panels, films, figures and pose files."""
