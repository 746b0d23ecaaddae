"""Choose a model from runs with a policy, and use the result in a program.

    python examples/choose_model.py results/choose-summarizer/2026…

It prints the decision, what each candidate lacks or by how much it is behind, and which weights would change the
choice; it ends with 1 if no candidate meets the requirements. `loadgen.select` returns what `selection.json` holds, and
writes nothing.
"""

import sys
from pathlib import Path

import loadgen

POLICY = Path(__file__).with_name("choose_model.toml")


def main(runs: list[str]) -> int:
    selection = loadgen.select(runs, POLICY)
    print(selection.decision.text)
    for candidate in selection.candidates:
        if candidate.out is not None:
            print(f"  {candidate.name} is out: {candidate.out}")
        elif candidate.lead is not None:
            print(f"  {candidate.name} is {candidate.lead.steps:.2f} steps behind, between {candidate.lead.ci}")
    for criterion, sensitivity in selection.sensitivity.items():
        print(f"  {criterion}: {selection.decision.first} {sensitivity.text}")
    return 1 if selection.decision.verdict == "none" else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except loadgen.LoadgenError as error:
        sys.exit(f"choose_model: {error}")
