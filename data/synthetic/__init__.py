"""The moving body behind `make_sample.py`."""
