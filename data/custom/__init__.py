"""What `prepare_2d_custom.py` consists of: reading, following people, filling gaps."""
