"""Chooses a model from the runs of several: requirements, Pareto fronts, weights, and how sure the choice is."""
