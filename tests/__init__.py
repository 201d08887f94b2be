"""The tests; what they share is in `tests.support`, and is imported from there and in no other way."""
