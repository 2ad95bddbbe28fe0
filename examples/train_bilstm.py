"""Train a small BiLSTM on extracted features: the shortest way from a finished run to a model.

    python examples/train_bilstm.py results/tvsum/mobilenet_v3_large \
        --targets tvsum_targets.parquet --train tvsum_train.txt --val tvsum_val.txt

Point it at a control (``framefeat controls``) as well: what it scores there, it did not learn from the features.
"""

import argparse
import sys

import framefeat
import torch
from framefeat import pad_collate
from framefeat.errors import UserError
from torch import nn
from torch.utils.data import DataLoader


class BiLSTM(nn.Module):
    """One score in 0..1 per frame: ``[B, T, D]`` -> ``[B, T]``."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, hidden, batch_first=True, bidirectional=True)
        self.score = nn.Linear(2 * hidden, 1)

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            features, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=features.shape[1]
        )
        return self.score(states).squeeze(-1).sigmoid()


def rank_correlation(scores: torch.Tensor, targets: torch.Tensor) -> float:
    """Spearman's rho (ties get the mean of their ranks)."""
    from scipy.stats import spearmanr

    return float(spearmanr(scores.numpy(), targets.numpy()).statistic)


def main() -> int:
    parser = argparse.ArgumentParser(description="Train a small BiLSTM on the features of a finished run.")
    parser.add_argument("features", help="folder results/DATASET/BACKBONE")
    parser.add_argument(
        "--targets", required=True, help="Parquet or CSV with video_id, frame_idx and one score per row"
    )
    parser.add_argument("--target-column", help="the score's column, where there are several")
    parser.add_argument("--train", help="text file with one video id per line (default: every video)")
    parser.add_argument("--val", help="text file with the ids to validate on")
    parser.add_argument("--epochs", type=int, default=10, help="few can turn the ranks round (default: 10)")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    try:
        features = framefeat.load(options.features)
        train = features.sequences(options.targets, options.train, options.target_column)
        val = features.sequences(options.targets, options.val, options.target_column) if options.val else None
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    if "control" in features.manifest:
        print(f"note: these features are a control ({features.manifest['control']['kind']})")

    model = BiLSTM(features.dim, options.hidden).to(options.device)
    optimiser = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    order = torch.Generator().manual_seed(options.seed)
    loader = DataLoader(train, options.batch_size, shuffle=True, collate_fn=pad_collate, generator=order)
    for epoch in range(1, options.epochs + 1):
        model.train()
        total = frames = 0.0
        for batch in loader:
            mask = batch["mask"].to(options.device)
            scores = model(batch["features"].to(options.device), batch["lengths"])
            squares = (scores - batch["target"].to(options.device))[mask].square()
            optimiser.zero_grad()
            squares.mean().backward()
            optimiser.step()
            total += float(squares.detach().sum())
            frames += int(mask.sum())
        print(
            f"epoch {epoch}: {len(train)} videos, {int(frames)} frames, mean squared error {total / frames:.4f}"
        )

    if val is not None:
        model.eval()
        errors, correlations = [], []
        with torch.no_grad():
            for batch in DataLoader(val, 1, collate_fn=pad_collate):
                mask = batch["mask"]
                scores = model(batch["features"].to(options.device), batch["lengths"]).cpu()[mask]
                targets = batch["target"][mask]
                errors.append(float((scores - targets).square().mean()))
                correlations.append(rank_correlation(scores, targets))
        mean = torch.tensor(correlations).nanmean()
        print(
            f"validation: {len(val)} videos, mean squared error {sum(errors) / len(errors):.4f}, Spearman's rho {mean:.3f} (mean over videos)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
