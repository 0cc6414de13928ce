"""Learning from few labels: exemplar synthesis, prototypes, pseudo-labels."""
