"""The moving body and the simulated estimators behind `make_sample.py`."""
