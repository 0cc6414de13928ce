"""How a hospital trains: batches, augmentation, replay, losses, the loop, prediction, scores."""
