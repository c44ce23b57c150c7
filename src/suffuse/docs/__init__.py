"""The pages of docs/ that are generated from the registry and the evidence."""
