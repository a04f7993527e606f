"""Modules of the pose lifter, from the skeleton up; imports run only downward."""
