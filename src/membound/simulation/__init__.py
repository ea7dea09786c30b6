"""membound."""
