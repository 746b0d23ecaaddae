"""Whether a server drifted over a soak: from windows and histograms to a verdict, and its words."""
