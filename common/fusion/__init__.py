"""Mixtures of estimators, their fitting, and 2D errors."""
