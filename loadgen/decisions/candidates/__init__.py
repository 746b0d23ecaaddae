"""The candidates of a choice or a grading: the runs that compare, and each model in them with its valid stages."""
