"""What tests share: oracles, stand-ins and small models with random weights."""
