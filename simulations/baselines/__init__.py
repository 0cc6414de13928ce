"""Other people's ways to spread one painted slice, each in one file, for comparison.

Letters: C channels, D slices of the stack, H W rows and columns, N classes with the background
first. Every file has a function from (stack, painted, start) to the class probabilities of the
whole stack: they sum to one, equal `painted` on slice `start`, and are all background where nothing
is painted.
"""
