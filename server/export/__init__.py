"""The formats in which models leave the federation for those who do not run OneSlice."""
