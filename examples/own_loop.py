"""`self_undermining_loss` in a plain PyTorch loop of your own. Usage: python examples/own_loop.py [STEPS]"""

import sys

import torch
from torch import nn

from undistill.losses import self_undermining_loss, softened_kl

if __name__ == "__main__":
    torch.manual_seed(0)
    inputs, labels = torch.randn(512, 20), torch.randint(0, 5, (512,))
    adversary, nasty = (nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5)) for _ in range(2))
    for network, omega in ((adversary, 0.0), (nasty, 0.04)):  # first an ordinary network, then one pushed away from it
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 300):
            with torch.no_grad():
                frozen_logits = adversary(inputs)
            loss = self_undermining_loss(network(inputs), frozen_logits, labels, omega=omega, temperature=4)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, network in (("adversary", adversary), ("nasty", nasty)):
        fits = 100 * (network(inputs).argmax(1) == labels).float().mean()
        print(
            f"{name}: fits {fits:.1f} %, τ²·KL from the adversary {softened_kl(network(inputs), adversary(inputs), 4):.2f} nats"
        )
