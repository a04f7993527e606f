"""Keypoints of any estimator to people, sequences and 3D poses."""
