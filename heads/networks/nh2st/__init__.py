"""NH2ST: neighbour attention, and the network as published."""
