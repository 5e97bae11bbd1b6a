"""What a model is worth: likelihood bounds, reconstructions, and how near its images are to real ones. Only the
scorer of a run and the classifier need torch."""
