"""The whole job in Python: train, protect, attack both. Usage: python examples/ten_lines.py [OUT] [EPOCHS]"""

import sys

import undistill

OUT = sys.argv[1] if len(sys.argv) > 1 else "runs/ten-lines"
EPOCHS = int(sys.argv[2]) if len(sys.argv) > 2 else 30

if __name__ == "__main__":
    data = undistill.load("digits")
    recipe = undistill.recipe("digits", [f"training.epochs={EPOCHS}"])
    normal = undistill.train("cnn", data, recipe, seed=0, out=f"{OUT}/normal")
    nasty = undistill.protect(normal, data, "nasty", out=f"{OUT}/nasty")
    print(f"accuracy: normal {normal.accuracy:.1f}, nasty {nasty.accuracy:.1f}")
    for name, victim in (("normal", normal), ("nasty", nasty)):
        for attack in ("kd", "label-only"):
            cell = undistill.attack(victim, data, attack, card="paper", out=f"{OUT}/{attack}-from-{name}")
            print(f"{attack} from {name}: {cell.accuracy:.1f} % after {cell.queries:,} queries")
