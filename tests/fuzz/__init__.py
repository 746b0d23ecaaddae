"""Fuzzing and soaking of our own readers: `make fuzz`. Knows no test runner."""
