"""Sentences of different lengths as dictionaries, padded by a collate function; the loss is a mean over words.

    pip install rightbatch
    python examples/dict_batches.py
    python examples/dict_batches.py --epochs 2

The program has the form of those written for Hugging Face models: a data set of dictionaries, a collate function that
pads, `model(**batch).loss`, labels of -100 where nothing is to be predicted. The DataLoader is given to `AutoBatch` as
it is. Sentences have different numbers of words, so `weight=` reports over how many words the loss is the mean.

Each sentence has a hidden topic, and what a word's tag is depends on it. Printed is the loss on new sentences beside
that of the exact Bayes rule, which knows how the sentences were made.
"""

import argparse
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

import rightbatch

TOPICS, WORDS, TAGS, OWN = 4, 60, 5, 0.6
PER_TOPIC = WORDS // TOPICS
RULE = torch.randint(TAGS, (TOPICS, WORDS), generator=torch.Generator().manual_seed(1))


def sentence() -> dict[str, Tensor]:
    """Up to 24 words, of which a share belongs to the topic, and their tags."""
    topic, length = int(torch.randint(TOPICS, ())), int(torch.randint(4, 25, ()))
    own = topic * PER_TOPIC + torch.randint(PER_TOPIC, (length,))
    words = torch.where(torch.rand(length) < OWN, own, torch.randint(WORDS, (length,)))
    return {"input_ids": words, "labels": RULE[topic, words]}


def pad(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch: all sentences as long as the longest."""
    words = pad_sequence([sample["input_ids"] for sample in samples], batch_first=True, padding_value=-1)
    labels = pad_sequence([sample["labels"] for sample in samples], batch_first=True, padding_value=-100)
    return {"input_ids": words.clamp(min=0), "attention_mask": (words >= 0).long(), "labels": labels}


class Tagger(nn.Module):
    """A word is tagged by itself and the mean of its sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.context = nn.Embedding(WORDS, 32), nn.Embedding(WORDS, 16)
        self.head = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, TAGS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> SimpleNamespace:
        mask = attention_mask[..., None].float()
        mean = (self.context(input_ids) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        logits = self.head(torch.cat([self.words(input_ids), mean.expand(-1, input_ids.shape[1], -1)], 2))
        return SimpleNamespace(loss=F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100), logits=logits)


def bayes(samples: list[dict[str, Tensor]]) -> float:
    """The mean loss of the rule that knows how topics, words and tags are made."""
    losses = []
    for sample in samples:
        words, labels = sample["input_ids"], sample["labels"]
        own = (words // PER_TOPIC)[None] == torch.arange(TOPICS)[:, None]
        posterior = (OWN / PER_TOPIC * own + (1 - OWN) / WORDS).log().sum(1).softmax(0)
        losses.append(-(posterior @ (RULE[:, words] == labels).float()).log())
    return float(torch.cat(losses).mean())


def main() -> None:
    """Train the tagger and compare it with the Bayes rule."""
    parser = argparse.ArgumentParser(description="Padded sentences with a loss over words.")
    parser.add_argument("--epochs", type=int, default=12)
    epochs = parser.parse_args().epochs

    torch.manual_seed(0)
    train, test = ([sentence() for _ in range(n)] for n in (6000, 1000))
    model = Tagger()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    auto = rightbatch.AutoBatch(model, optimizer, DataLoader(train, batch_size=32, shuffle=True, collate_fn=pad))
    for epoch in range(epochs):
        for batch in auto:
            loss = model(**batch).loss
            auto.backward(loss, weight=(batch["labels"] != -100).sum())
            auto.step()
        with torch.no_grad():
            print(f"epoch {epoch + 1:2d}  loss {float(model(**pad(test)).loss):.3f}  batch {auto.batch_size}")
    print(f"the Bayes rule: {bayes(test):.3f}; guessing: {torch.tensor(float(TAGS)).log():.3f}")


if __name__ == "__main__":
    main()
