"""What tests of methods need: fixture networks and generated checks."""
