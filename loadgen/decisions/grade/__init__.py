"""Notes from 1 to 5 on the answers of runs: by people, blind to the model, and by a second model."""
