"""Moving bodies, what they do, and the estimators that look at them: behind `make_sample.py`."""
