"""What a model runs on: the catalog, user hardware and (probe) this machine."""
