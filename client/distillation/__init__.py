"""The student: registration-made pairs, a teacher that rebuilds scans, hints between the two."""
