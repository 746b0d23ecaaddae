"""What changed over the nights of a scenario, and since when."""
