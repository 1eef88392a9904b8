"""A small mutation fuzzer: seeded, aware of structure, with its own oracle (one clear refusal, no hang, nothing lost)."""
