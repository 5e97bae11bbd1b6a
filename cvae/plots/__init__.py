"""Pictures of what a model has learned and how, from exported files and from what a run leaves. Torch-free."""
