"""What a model is worth: likelihood bounds, reconstructions, and how near its images are to real ones. Only
`run_scorer` needs torch."""
