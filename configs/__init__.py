"""One ml_collections config for each experiment."""
