"""How far a model's windows overlap when it predicts, as a share of them along each axis."""

# A quarter costs the student 0.0006 Dice on hippocampus scans and up to two thirds less time
# (docs/benchmarks.md); who asks for the segmenter wants the best there is.
WINDOW_OVERLAP: dict[str, float] = {"student": 0.25, "segmenter": 0.5}
