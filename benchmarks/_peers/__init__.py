"""Programs that train the models of other projects as published, and record their weights."""
